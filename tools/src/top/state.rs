//! What is on show, and how messages change it. No clock, no terminal, no files.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;

use super::snapshot::{Row, RowKey, Snapshot};
use super::vm::Vm;
use crate::looks::Look;

/// Longest filter that can be typed.
const MAX_FILTER: usize = 256;

/// What rows are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum SortKey {
    /// All samples, most first
    #[default]
    Samples,
    /// Samples since the last change, most first
    Recent,
    /// Name of the function
    Function,
    /// Name of the image
    Image,
    /// Name of the program
    Program,
}

impl SortKey {
    /// The name of its column.
    pub fn title(self) -> &'static str {
        match self {
            Self::Samples => "samples",
            Self::Recent => "recent",
            Self::Function => "function",
            Self::Image => "image",
            Self::Program => "program",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Samples => Self::Recent,
            Self::Recent => Self::Function,
            Self::Function => Self::Image,
            Self::Image => Self::Program,
            Self::Program => Self::Samples,
        }
    }
}

/// A key, freed of the terminal's library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// Enter.
    Enter,
    /// Escape.
    Escape,
    /// Backspace.
    Backspace,
    /// A row up.
    Up,
    /// A row down.
    Down,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// The first row.
    Home,
    /// The last row.
    End,
    /// Control and C.
    Interrupt,
}

/// What may happen.
#[derive(Debug)]
pub enum Message {
    /// A key was pressed.
    Key(Key),
    /// The session has changed.
    Snapshot(Box<Snapshot>),
    /// The session cannot be read, and why.
    Trouble(String),
    /// The VM has told its status.
    Look(Box<Look>),
    /// It will not any more, and why.
    VmEnded(String),
}

/// What is on show.
#[derive(Debug, Default)]
pub struct State {
    /// The session on show.
    pub snapshot: Snapshot,
    /// Samples of each row before the last change; empty before there was one.
    before: HashMap<RowKey, u64>,
    /// Samples of each vCPU before the last change, by its name.
    vcpus_before: HashMap<String, u64>,
    changes: u64,
    /// The newest that came while paused.
    held: Option<Box<Snapshot>>,
    held_look: Option<Box<Look>>,
    /// What the VM says, if it is asked.
    pub vm: Option<Vm>,
    /// Why it says nothing any more, if so.
    pub vm_ended: Option<String>,
    /// Whether changes wait.
    pub paused: bool,
    /// What rows are sorted by.
    pub sort: SortKey,
    /// The other way round.
    pub reverse: bool,
    /// Rows without this in function, image or program are not shown; case does not matter.
    pub filter: String,
    /// The filter while it is being typed.
    pub typing: Option<String>,
    /// First row on show.
    pub top: usize,
    /// Rows that fit on the screen; the view says how many.
    pub page: usize,
    /// Whether the keys are explained.
    pub help: bool,
    /// Why there is nothing new, if so.
    pub trouble: Option<String>,
    /// Whether the program is to end.
    pub quit: bool,
}

impl State {
    /// Nothing yet, to be sorted and filtered like this.
    pub fn new(sort: SortKey, filter: &str) -> Self {
        Self {
            sort,
            filter: filter.to_owned(),
            ..Self::default()
        }
    }

    /// Takes note of what happened.
    pub fn update(&mut self, message: Message) {
        match message {
            Message::Snapshot(snapshot) => {
                self.trouble = None;
                if self.paused {
                    self.held = Some(snapshot);
                } else {
                    self.show(*snapshot);
                }
            }
            Message::Trouble(why) => self.trouble = Some(why),
            Message::Look(look) if self.paused => self.held_look = Some(look),
            Message::Look(look) => self.look(look),
            Message::VmEnded(why) => self.vm_ended = Some(why),
            Message::Key(Key::Interrupt) => self.quit = true,
            Message::Key(key) if self.typing.is_some() => self.edit(key),
            Message::Key(key) => self.press(key),
        }
        self.keep_top_in_range();
    }

    fn show(&mut self, snapshot: Snapshot) {
        if self.changes > 0 {
            let old = &self.snapshot;
            self.before = old
                .rows
                .iter()
                .map(|row| (row.key.clone(), row.samples))
                .collect();
            self.vcpus_before = old.vcpus.iter().cloned().zip(old.by_vcpu()).collect();
        }
        self.changes = self.changes.saturating_add(1);
        self.snapshot = snapshot;
    }

    fn look(&mut self, look: Box<Look>) {
        match &mut self.vm {
            Some(vm) => vm.look(look),
            None => self.vm = Some(Vm::new(look)),
        }
    }

    fn press(&mut self, key: Key) {
        let page = self.page.max(1);
        match key {
            Key::Char('q') => self.quit = true,
            Key::Char('p' | ' ') => {
                self.paused = !self.paused;
                if !self.paused {
                    if let Some(held) = self.held.take() {
                        self.show(*held);
                    }
                    if let Some(held) = self.held_look.take() {
                        self.look(held);
                    }
                }
            }
            Key::Char('/') => self.typing = Some(self.filter.clone()),
            Key::Char('s') => {
                self.sort = self.sort.next();
                self.top = 0;
            }
            Key::Char('r') => {
                self.reverse = !self.reverse;
                self.top = 0;
            }
            Key::Char('h' | '?') => self.help = !self.help,
            Key::Escape if self.help => self.help = false,
            Key::Escape => {
                self.filter.clear();
                self.top = 0;
            }
            Key::Up | Key::Char('k') => self.top = self.top.saturating_sub(1),
            Key::Down | Key::Char('j') => self.top = self.top.saturating_add(1),
            Key::PageUp => self.top = self.top.saturating_sub(page),
            Key::PageDown => self.top = self.top.saturating_add(page),
            Key::Home => self.top = 0,
            Key::End => self.top = usize::MAX,
            Key::Char(_) | Key::Enter | Key::Backspace | Key::Interrupt => {}
        }
    }

    fn edit(&mut self, key: Key) {
        let Some(mut text) = self.typing.take() else {
            return;
        };
        match key {
            Key::Enter => {
                self.filter = text;
                self.top = 0;
                return;
            }
            Key::Escape => return,
            Key::Backspace => {
                text.pop();
            }
            Key::Char(character) if text.len() < MAX_FILTER && !character.is_control() => {
                text.push(character);
            }
            _ => {}
        }
        self.typing = Some(text);
    }

    fn keep_top_in_range(&mut self) {
        let last = self.shown().count().saturating_sub(self.page.max(1));
        self.top = self.top.min(last);
    }

    fn shown(&self) -> impl Iterator<Item = &Row> {
        let wanted = self.typing.as_ref().unwrap_or(&self.filter).to_lowercase();
        self.snapshot.rows.iter().filter(move |row| {
            wanted.is_empty()
                || [&row.key.function, &row.key.image, &row.key.program]
                    .iter()
                    .any(|text| text.to_lowercase().contains(&wanted))
        })
    }

    /// All rows that the filter lets through, sorted.
    pub fn rows(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.shown().collect();
        rows.sort_by(|a, b| {
            let order = self.compare(a, b);
            if self.reverse { order.reverse() } else { order }
        });
        rows
    }

    fn compare(&self, a: &Row, b: &Row) -> Ordering {
        let samples = |row: &Row| Reverse(row.samples);
        let first = match self.sort {
            SortKey::Samples => Ordering::Equal,
            SortKey::Recent => Reverse(self.recent(a)).cmp(&Reverse(self.recent(b))),
            SortKey::Function => a.key.function.cmp(&b.key.function),
            SortKey::Image => a.key.image.cmp(&b.key.image),
            SortKey::Program => a.key.program.cmp(&b.key.program),
        };
        first
            .then_with(|| samples(a).cmp(&samples(b)))
            .then_with(|| a.key.cmp(&b.key))
    }

    /// Samples of a row since the last change; all of them before there was one. A session that began anew counts from 0.
    pub fn recent(&self, row: &Row) -> u64 {
        let before = self.before.get(&row.key).copied().unwrap_or(0);
        row.samples.checked_sub(before).unwrap_or(row.samples)
    }

    /// Samples of each vCPU since the last change, as [`State::recent`].
    pub fn recent_by_vcpu(&self) -> Vec<u64> {
        self.snapshot
            .vcpus
            .iter()
            .zip(self.snapshot.by_vcpu())
            .map(|(name, now)| {
                let before = self.vcpus_before.get(name).copied().unwrap_or(0);
                now.checked_sub(before).unwrap_or(now)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::snapshot;
    use super::super::vm::tests::look;
    use super::*;

    fn started() -> State {
        let mut state = State {
            page: 2,
            ..State::default()
        };
        state.update(Message::Snapshot(Box::new(snapshot())));
        state
    }

    fn press(state: &mut State, keys: &str) {
        for key in keys.chars() {
            let key = if key == '\n' {
                Key::Enter
            } else {
                Key::Char(key)
            };
            state.update(Message::Key(key));
        }
    }

    fn functions(state: &State) -> Vec<&str> {
        let rows = state.rows().into_iter();
        rows.map(|row| &*row.key.function).collect()
    }

    const AT: &str = "std::vector<int; 3>::at(\"&\")";

    fn grown(by: u64) -> Box<Snapshot> {
        let mut later = snapshot();
        later.rows[0].samples += by;
        later.rows[0].by_vcpu[1] += by;
        Box::new(later)
    }

    #[test]
    fn sort_key_goes_round_and_reverses() {
        let mut state = started();
        assert_eq!(functions(&state), [AT, "main", "do idle"]);
        press(&mut state, "r");
        assert_eq!(functions(&state), ["do idle", "main", AT]);
        press(&mut state, "rss");
        assert_eq!(state.sort, SortKey::Function);
        assert_eq!(functions(&state), ["do idle", "main", AT]);
        press(&mut state, "sss");
        assert_eq!(state.sort, SortKey::Samples);
    }

    #[test]
    fn filter_is_typed_kept_by_enter_and_dropped_by_escape() {
        let mut state = started();
        press(&mut state, "/VMLINUXq");
        assert!(!state.quit, "a letter of the filter is no command");
        assert!(functions(&state).is_empty());
        state.update(Message::Key(Key::Backspace));
        assert_eq!(functions(&state), ["do idle"]);
        press(&mut state, "\n");
        assert_eq!(state.filter, "VMLINUX");
        press(&mut state, "/x");
        state.update(Message::Key(Key::Escape));
        assert_eq!(functions(&state), ["do idle"]);
        state.update(Message::Key(Key::Escape));
        assert_eq!(functions(&state).len(), 3);
    }

    #[test]
    fn pause_holds_the_newest_change_back() {
        let mut state = started();
        press(&mut state, "p");
        state.update(Message::Snapshot(grown(5)));
        state.update(Message::Snapshot(grown(9)));
        assert_eq!(state.snapshot.total(), 1000);
        press(&mut state, "p");
        assert_eq!(state.snapshot.total(), 1009);
        assert_eq!(state.recent_by_vcpu(), [0, 9]);
    }

    #[test]
    fn pause_holds_the_vms_figures_back_and_rates_span_it() {
        let mut state = started();
        state.update(Message::Look(look(0, [10, 0], &[])));
        press(&mut state, "p");
        state.update(Message::Look(look(1, [20, 0], &[])));
        state.update(Message::Look(look(2, [40, 0], &[])));
        let received = |state: &State| state.vm.as_ref().unwrap().received();
        assert_eq!(received(&state).value, 10);
        // That it has ended is told at once.
        state.update(Message::VmEnded("gone".to_owned()));
        assert_eq!(state.vm_ended.as_deref(), Some("gone"));
        press(&mut state, "p");
        assert_eq!(received(&state).value, 40);
        assert_eq!(received(&state).rate, Some(300));
    }

    #[test]
    fn recent_samples_are_those_since_the_last_change() {
        let mut state = started();
        assert_eq!(state.recent_by_vcpu(), [700, 300]);
        state.update(Message::Snapshot(grown(5)));
        state.sort = SortKey::Recent;
        assert_eq!(functions(&state), ["do idle", AT, "main"]);
        assert_eq!(state.recent(state.rows()[0]), 5);
        // A session that began anew.
        state.update(Message::Snapshot(Box::new(snapshot())));
        assert_eq!(state.recent(state.rows()[0]), 50);
    }

    #[test]
    fn rows_do_not_scroll_out_of_sight() {
        let mut state = started();
        for key in [Key::End, Key::PageDown, Key::Down] {
            state.update(Message::Key(key));
            assert_eq!(state.top, 1, "three rows, two on the screen");
        }
        state.update(Message::Key(Key::PageUp));
        assert_eq!(state.top, 0);
    }

    #[test]
    fn trouble_goes_when_the_session_is_readable_again() {
        let mut state = started();
        state.update(Message::Trouble("gone".to_owned()));
        assert_eq!(state.snapshot.total(), 1000);
        assert_eq!(state.trouble.as_deref(), Some("gone"));
        state.update(Message::Snapshot(grown(1)));
        assert_eq!(state.trouble, None);
    }

    #[test]
    fn interrupt_ends_the_program_even_while_typing() {
        let mut state = started();
        press(&mut state, "/");
        state.update(Message::Key(Key::Interrupt));
        assert!(state.quit);
    }
}
