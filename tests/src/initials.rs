//! First packets of QUIC connections that nobody means: on the outside as the standard wants them,
//! as anybody can make them, and inside whatever a test wants (RFC 9000, 17.2.2; RFC 9001, 5.2).

use tokio_rustls::rustls::Side;
use tokio_rustls::rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use tokio_rustls::rustls::quic::Version;

/// The size of a packet that asks for a connection: who sends less is not answered.
pub const SIZE: usize = 1200;
/// How a message of TLS begins that asks for a connection: 1 KiB of it is to come.
pub const BEGUN: [u8; 6] = [1, 0, 4, 0, 3, 3];

/// A long header of the first kind, with a packet number of 4 bytes.
const FIRST: u8 = 0xC3;
/// What tells the kinds of long headers apart, and the one that asks to come again.
const KIND: u8 = 0x30;
const RETRY: u8 = 0x30;
const NUMBER: usize = 4;
/// What proves that a packet is whole, and what hides its number.
const TAG: usize = 16;
/// A frame of the handshake.
const CRYPTO: u8 = 6;

/// Somebody who asks for a connection and has no business there.
#[derive(Clone, Debug)]
pub struct Stranger {
    from: [u8; 8],
    to: Vec<u8>,
    token: Vec<u8>,
}

/// What a stranger was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// To come again, and show that it gets answers at its address. Nothing is kept of it.
    ComeAgain,
    /// Anything else: its handshake was begun.
    Begun,
}

impl Stranger {
    /// One of its own for each number.
    #[must_use]
    pub fn new(number: u64) -> Self {
        let from = number.to_be_bytes();
        Self {
            from,
            to: number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().into(),
            token: Vec::new(),
        }
    }

    /// Its packet, in which `words` stand at `offset` of what TLS says.
    ///
    /// # Panics
    /// If they are too many for one.
    #[must_use]
    pub fn says(&self, offset: usize, words: &[u8]) -> Vec<u8> {
        let suite = TLS13_AES_128_GCM_SHA256.tls13().and_then(|suite| suite.quic_suite());
        let keys = suite.expect("QUIC has it").keys(&self.to, Side::Client, Version::V1).local;
        let mut packet = vec![FIRST, 0, 0, 0, 1];
        for id in [self.to.as_slice(), &self.from] {
            packet.push(id.len() as u8);
            packet.extend(id);
        }
        packet.extend(varint(self.token.len()));
        packet.extend(&self.token);
        let room = SIZE - packet.len() - 4 - NUMBER - TAG;
        packet.extend(varint(NUMBER + room + TAG));
        let number = packet.len();
        packet.extend([0; NUMBER]);
        let mut frames = vec![CRYPTO];
        frames.extend([varint(offset), varint(words.len())].concat());
        frames.extend(words);
        assert!(frames.len() <= room, "{} bytes do not fit", words.len());
        // Zeros are padding.
        frames.resize(room, 0);
        let tag = keys.packet.encrypt_in_place(0, &packet, &mut frames).expect("it fits");
        let (first, rest) = packet.split_first_mut().expect("a header");
        let number = &mut rest[number - 1..][..NUMBER];
        keys.header.encrypt_in_place(&frames[..TAG], first, number).expect("a sample");
        [packet, frames, tag.as_ref().to_vec()].concat()
    }

    /// Hears an answer. Who is told to come again shows next time what it was given.
    ///
    /// # Panics
    /// If it is none of QUIC.
    pub fn hears(&mut self, answer: &[u8]) -> Told {
        assert!(answer.len() > 7 && answer[0] & 0x80 != 0, "no long header: {answer:?}");
        if answer[0] & KIND != RETRY {
            return Told::Begun;
        }
        let (_, rest) = answer[6..].split_at(answer[5].into());
        let (length, rest) = rest.split_first().expect("an id");
        let (id, rest) = rest.split_at((*length).into());
        self.to = id.to_vec();
        self.token = rest[..rest.len() - TAG].to_vec();
        Told::ComeAgain
    }
}

/// A number in its form of 4 bytes.
fn varint(number: usize) -> Vec<u8> {
    let number = u32::try_from(number).ok().filter(|number| *number < 1 << 30);
    (number.expect("a small number") | 2 << 30).to_be_bytes().to_vec()
}
