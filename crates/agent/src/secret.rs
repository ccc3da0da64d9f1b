//! Comparing secrets.

/// Whether `shown` is the secret; takes the same time wherever the first difference is.
pub(crate) fn same(secret: &[u8], shown: &[u8]) -> bool {
    let differ = secret.iter().zip(shown).fold(0, |differ, (a, b)| differ | (a ^ b));
    secret.len() == shown.len() && differ == 0
}
