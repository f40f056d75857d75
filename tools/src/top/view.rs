//! Drawing what is on show. ASCII only, and nothing is told by colour alone: plain terminals show all of it.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table};

use super::snapshot::Row;
use super::state::State;

/// Most vCPUs with a bar; the rest is summed in one.
const MAX_BARS: usize = 8;
/// Width of a vCPU's bar.
const BAR: usize = 40;
/// Shades of a vCPU's share in a row, from nothing to all.
const SHADES: &[u8; 10] = b" .:-=+*#%@";
/// Most vCPUs with a shade in a row.
const MAX_SHADES: usize = 16;
/// What keys do.
const KEYS: &str = "q quit  p pause  / filter  Esc no filter  s sort  r reverse  Up/Down/PgUp/PgDn/Home/End scroll  h help";

/// Rows of the table that fit in `height` lines.
pub fn page(state: &State, height: u16) -> usize {
    let others = 3 + bars(state).len() + usize::from(state.help);
    usize::from(height).saturating_sub(others).max(1)
}

/// Draws the whole screen. `colour` is false where colours are not wanted.
pub fn draw(frame: &mut Frame<'_>, state: &State, colour: bool) {
    let bars = bars(state);
    // At most 9.
    let bars_height = u16::try_from(bars.len()).unwrap_or(u16::MAX);
    let [head, account, vcpus, table, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(bars_height),
        Constraint::Fill(1),
        Constraint::Length(u16::from(state.help)),
    ])
    .areas(frame.area());
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let paint = |color: Color| {
        if colour {
            Style::new().fg(color)
        } else {
            Style::new()
        }
    };
    frame.render_widget(Paragraph::new(heading(state, bold)), head);
    let loss_style = if state.snapshot.lost() > 0 || state.trouble.is_some() {
        paint(Color::Red).add_modifier(Modifier::BOLD)
    } else {
        paint(Color::Green)
    };
    frame.render_widget(
        Paragraph::new(account_line(state)).style(loss_style),
        account,
    );
    frame.render_widget(
        Paragraph::new(bars.into_iter().map(Line::from).collect::<Vec<_>>())
            .style(paint(Color::Cyan)),
        vcpus,
    );
    draw_table(frame, table, state, bold);
    if state.help {
        frame.render_widget(Paragraph::new(KEYS), keys);
    }
}

fn heading(state: &State, bold: Style) -> Line<'static> {
    let mut spans = vec![
        Span::styled("optop", bold),
        Span::raw(format!(
            "  {} samples  sort: {}{}",
            state.snapshot.total(),
            state.sort.title(),
            if state.reverse { ", reversed" } else { "" }
        )),
    ];
    if let Some(typing) = &state.typing {
        spans.push(Span::styled(format!("  filter: {typing}_"), bold));
    } else if !state.filter.is_empty() {
        spans.push(Span::raw(format!("  filter: {}", state.filter)));
    }
    if state.paused {
        spans.push(Span::styled("  PAUSED", bold));
    }
    spans.push(Span::raw("  (h: keys)"));
    Line::from(spans)
}

/// What was lost and why, or what is wrong.
pub(super) fn account_line(state: &State) -> String {
    if let Some(trouble) = &state.trouble {
        return trouble.clone();
    }
    let snapshot = &state.snapshot;
    if snapshot.account.is_empty() {
        return "account of losses: none in this session".to_owned();
    }
    let received = snapshot
        .received()
        .map_or_else(|| "?".to_owned(), |received| received.to_string());
    let mut line = format!("received {received}, lost {}", snapshot.lost());
    for (name, count) in snapshot.losses() {
        line.push_str(&format!(", {name} {count}"));
    }
    line
}

/// A line a vCPU: its part of the samples since the last change.
pub(super) fn bars(state: &State) -> Vec<String> {
    let recent = state.recent_by_vcpu();
    let total = recent
        .iter()
        .fold(0, |sum: u64, count| sum.saturating_add(*count));
    let names = state.snapshot.vcpus.iter().map(String::as_str);
    let mut bars: Vec<(&str, u64)> = names.zip(recent).collect();
    let rest = bars.split_off(bars.len().min(MAX_BARS));
    let others = format!("{} more", rest.len());
    if !rest.is_empty() {
        let sum = rest
            .iter()
            .fold(0, |sum: u64, (_, count)| sum.saturating_add(*count));
        bars.push((&others, sum));
    }
    bars.into_iter()
        .map(|(name, count)| {
            let filled = usize::try_from(part(count, total, BAR as u64)).unwrap_or(BAR);
            format!(
                "vCPU {name:>7} [{}{}] {:>5} % {count:>9}",
                "#".repeat(filled),
                " ".repeat(BAR.saturating_sub(filled)),
                percent(count, total),
            )
        })
        .collect()
}

/// `scale · count / whole`, rounded; 0 of nothing.
fn part(count: u64, whole: u64, scale: u64) -> u64 {
    if whole == 0 {
        return 0;
    }
    let (count, whole) = (u128::from(count), u128::from(whole));
    let rounded = (count * u128::from(scale) + whole / 2) / whole;
    u64::try_from(rounded).unwrap_or(scale)
}

/// A percentage with one decimal.
pub(super) fn percent(count: u64, whole: u64) -> String {
    let tenths = part(count, whole, 1000);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// A character a vCPU: its part of the row's samples.
pub(super) fn shades(row: &Row) -> String {
    // The highest index.
    let most = SHADES.len() as u64 - 1;
    row.by_vcpu
        .iter()
        .take(MAX_SHADES)
        .map(|count| {
            // What is there at all is seen.
            let shade = part(*count, row.samples, most).max(u64::from(*count > 0));
            let shade = usize::try_from(shade).unwrap_or(0);
            char::from(SHADES.get(shade).copied().unwrap_or(b'@'))
        })
        .collect()
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, state: &State, bold: Style) {
    let total = state.snapshot.total();
    let vcpus = u16::try_from(state.snapshot.vcpus.len().clamp(4, MAX_SHADES)).unwrap_or(4);
    let rows = state.rows();
    let shown = rows
        .iter()
        .skip(state.top)
        .take(usize::from(area.height))
        .map(|row| {
            TableRow::new([
                Cell::from(format!("{:>10}", row.samples)),
                Cell::from(format!("{:>5}", percent(row.samples, total))),
                Cell::from(format!("{:>8}", state.recent(row))),
                Cell::from(shades(row)),
                Cell::from(row.key.image.clone()),
                Cell::from(row.key.program.clone()),
                Cell::from(row.key.function.clone()),
            ])
        });
    let widths = [
        Constraint::Length(10),
        Constraint::Length(5),
        Constraint::Length(8),
        Constraint::Length(vcpus),
        Constraint::Max(18),
        Constraint::Max(14),
        Constraint::Min(12),
    ];
    let header = TableRow::new([
        "   samples",
        "    %",
        "  recent",
        "vCPU",
        "image",
        "program",
        "function",
    ])
    .style(bold.add_modifier(Modifier::REVERSED));
    frame.render_widget(Table::new(shown, widths).header(header), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::snapshot::tests::snapshot;
    use super::super::state::{Key, Message};
    use super::*;

    fn started() -> State {
        let mut state = State::default();
        state.update(Message::Snapshot(Box::new(snapshot())));
        state
    }

    fn drawn(state: &State, colour: bool) -> Terminal<TestBackend> {
        let mut terminal = Terminal::new(TestBackend::new(100, 10)).unwrap();
        terminal.draw(|frame| draw(frame, state, colour)).unwrap();
        terminal
    }

    #[test]
    fn screen_shows_account_vcpus_and_functions() {
        let terminal = drawn(&started(), true);
        let text = terminal.backend().to_string();
        // The backend puts each line in quotation marks.
        let lines: Vec<&str> = text
            .lines()
            .map(|line| line.trim_matches('"').trim_end())
            .collect();
        let wanted = [
            "optop  1000 samples  sort: samples  (h: keys)",
            "received 1030, lost 30, no_mapping 28, collector_no_region 2",
            "vCPU       0 [############################            ]  70.0 %       700",
            "vCPU       1 [############                            ]  30.0 %       300",
            "   samples     %   recent vCPU image              program        function",
            "       850  85.0      850 *-   calc               calc           std::vector<int; 3>::at(\"&\")",
            "       100  10.0      100 @    calc               calc           main",
            "        50   5.0       50  @   vmlinux            vmlinux        do idle",
            "",
            "",
        ];
        assert_eq!(lines, wanted, "{text}");
    }

    #[test]
    fn pause_filter_and_trouble_are_told_in_words() {
        let mut state = started();
        for key in ['p', '/', 'i', 'd', 'l'] {
            state.update(Message::Key(Key::Char(key)));
        }
        state.update(Message::Trouble("The session is gone".to_owned()));
        let text = drawn(&state, true).backend().to_string();
        for part in ["PAUSED", "filter: idl_", "The session is gone", "do idle"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("main"));
    }

    #[test]
    fn no_colour_is_no_colour() {
        let coloured = |colour| {
            let terminal = drawn(&started(), colour);
            let cells = terminal.backend().buffer().content();
            cells.iter().any(|cell| cell.fg != Color::Reset)
        };
        assert!(coloured(true));
        assert!(!coloured(false));
    }

    #[test]
    fn smallest_screens_are_drawn() {
        for (width, height) in [(1, 1), (10, 3), (3, 40)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal
                .draw(|frame| draw(frame, &started(), true))
                .unwrap();
        }
    }

    #[test]
    fn many_vcpus_do_not_take_the_screen() {
        let mut state = started();
        let mut many = snapshot();
        many.vcpus = (0..1000).map(|vcpu| vcpu.to_string()).collect();
        for row in &mut many.rows {
            row.by_vcpu.resize(1000, 1);
        }
        state.update(Message::Snapshot(Box::new(many)));
        let bars = bars(&state);
        assert_eq!(bars.len(), MAX_BARS + 1);
        assert!(bars[MAX_BARS].contains("992 more"));
    }
}
