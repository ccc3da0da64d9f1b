//! A whole terminal for one view: it is taken, drawn on, and given back however this ends.

use std::io;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Text, Span};
use tokio::sync::mpsc;

use super::host::HostView;
use super::paint::{Line, Tone};

/// How often the thread that waits for keys looks whether it is to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What a person wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Leave,
    Interrupt,
    Choose {
        below: bool,
    },
    /// The terminal has another size.
    Redraw,
}

/// The terminal of this program, in its own screen. A panic gives it back before it is told.
pub(crate) struct Taken {
    terminal: DefaultTerminal,
    colour: bool,
}

impl Taken {
    /// Takes the terminal, and what is typed there.
    ///
    /// # Errors
    /// It is none, or it has gone.
    pub(crate) fn take(colour: bool) -> io::Result<(Self, mpsc::Receiver<Wish>)> {
        let taken = Self { terminal: ratatui::try_init()?, colour };
        let (sender, wishes) = mpsc::channel(16);
        std::thread::Builder::new().name("keys".into()).spawn(move || listen(&sender))?;
        Ok((taken, wishes))
    }

    /// Draws a view.
    ///
    /// # Errors
    /// The terminal has gone.
    pub(crate) fn draw(&mut self, view: &HostView) -> io::Result<()> {
        let colour = self.colour;
        self.terminal.draw(|frame| draw(frame, view, colour)).map(drop)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing.
        let _ = ratatui::try_restore();
    }
}

/// Ends when nobody listens any more.
fn listen(wishes: &mpsc::Sender<Wish>) {
    while !wishes.is_closed() {
        match event::poll(LOOK_INTERVAL) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(_) => break,
        }
        let Ok(heard) = event::read() else { break };
        if let Some(wish) = wish(&heard)
            && wishes.blocking_send(wish).is_err()
        {
            return;
        }
    }
    // A terminal that cannot be listened to has gone.
    let _ = wishes.blocking_send(Wish::Leave);
}

fn wish(heard: &Event) -> Option<Wish> {
    match heard {
        Event::Resize(..) => Some(Wish::Redraw),
        Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) => match code {
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => {
                Some(Wish::Interrupt)
            }
            KeyCode::Char('q') | KeyCode::Esc => Some(Wish::Leave),
            KeyCode::Down | KeyCode::Char('j') => Some(Wish::Choose { below: true }),
            KeyCode::Up | KeyCode::Char('k') => Some(Wish::Choose { below: false }),
            _ => None,
        },
        _ => None,
    }
}

/// Draws a view over all of a frame.
pub(crate) fn draw(frame: &mut ratatui::Frame<'_>, view: &HostView, colour: bool) {
    let area = frame.area();
    let lines = view.lines(area.width.into(), area.height.into());
    for (line, y) in lines.iter().zip(area.y..area.bottom()) {
        frame.buffer_mut().set_line(area.x, y, &text(line, colour), area.width);
    }
}

fn text(line: &Line, colour: bool) -> Text<'_> {
    let style = |tone: Tone| if colour { style(tone) } else { Style::new() };
    line.spans().map(|(tone, text)| Span::styled(text, style(tone))).collect()
}

fn style(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Strong => Style::new().add_modifier(Modifier::BOLD),
        Tone::Faint => Style::new().add_modifier(Modifier::DIM),
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Warn => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red),
        Tone::Bar => Style::new().fg(Color::Cyan),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_understood_when_they_go_down() {
        let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        let plain = |code| wish(&key(code, KeyModifiers::NONE));
        assert_eq!(plain(KeyCode::Char('q')), Some(Wish::Leave));
        assert_eq!(plain(KeyCode::Char('c')), None);
        let interrupt = wish(&key(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert_eq!(interrupt, Some(Wish::Interrupt));
        assert_eq!(plain(KeyCode::Up), Some(Wish::Choose { below: false }));
        assert_eq!(wish(&Event::Resize(1, 1)), Some(Wish::Redraw));
        let up =
            KeyEvent::new_with_kind(KeyCode::Char('q'), KeyModifiers::NONE, KeyEventKind::Release);
        assert_eq!(wish(&Event::Key(up)), None);
    }
}
