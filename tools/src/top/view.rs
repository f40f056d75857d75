//! Drawing what is on show. ASCII only, and nothing is told by colour alone: plain terminals show all of it.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect, Size};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table};

use super::snapshot::Row;
use super::state::State;
use super::vm::{Figure, Rate, Vm};

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

/// Columns of a loss with its count and rate; longer ones take what they need.
const LOSS: usize = 38;

/// Rows of the table that fit on a screen.
pub fn page(state: &State, size: Size) -> usize {
    let account = account_lines(state, usize::from(size.width)).len();
    let others = 2 + account + bars(state).len() + usize::from(state.help);
    usize::from(size.height).saturating_sub(others).max(1)
}

/// Draws the whole screen. `colour` is false where colours are not wanted.
pub fn draw(frame: &mut Frame<'_>, state: &State, colour: bool) {
    let bars = bars(state);
    let lines = account_lines(state, usize::from(frame.area().width));
    // At most 9, and 20.
    let height = |lines: &[String]| u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let [head, account, vcpus, table, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(height(&lines)),
        Constraint::Length(height(&bars)),
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
    let lost = match &state.vm {
        Some(vm) => vm.lost().value,
        None => state.snapshot.lost(),
    };
    let loss_style = if lost > 0 || state.trouble.is_some() || state.vm_ended.is_some() {
        paint(Color::Red).add_modifier(Modifier::BOLD)
    } else {
        paint(Color::Green)
    };
    let text =
        |lines: Vec<String>| Paragraph::new(lines.into_iter().map(Line::from).collect::<Vec<_>>());
    frame.render_widget(text(lines).style(loss_style), account);
    frame.render_widget(text(bars).style(paint(Color::Cyan)), vcpus);
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
    if state.vm_ended.is_some() {
        spans.push(Span::styled("  VM HAS ENDED", bold));
    }
    spans.push(Span::raw("  (h: keys)"));
    Line::from(spans)
}

/// What was lost and why, and what is wrong. Lines are filled up to `width` where it has room for more than one loss.
pub(super) fn account_lines(state: &State, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = state.trouble.iter().cloned().collect();
    match (&state.vm, &state.vm_ended) {
        (Some(vm), ended) => {
            lines.push(vm_line(vm, ended.as_deref()));
            let losses: Vec<String> = vm.losses().iter().map(loss).collect();
            let rows = losses.chunks((width / LOSS).max(1));
            lines.extend(rows.map(|row| format!("  {}", row.concat().trim_end())));
        }
        (None, Some(why)) => lines.push(why.clone()),
        (None, None) if lines.is_empty() => lines.push(session_line(state)),
        (None, None) => {}
    }
    lines
}

fn session_line(state: &State) -> String {
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

fn vm_line(vm: &Vm, ended: Option<&str>) -> String {
    let status = vm.status();
    let how = match (ended, status.said_hello, status.started) {
        (Some(why), ..) => format!("{why}; its last state"),
        (None, false, _) => "VM, no guest driver has said hello".to_owned(),
        (None, true, false) => "VM, profiling stopped".to_owned(),
        (None, true, true) => "VM, profiling runs".to_owned(),
    };
    let figures = [vm.received(), vm.lost()].map(|figure| figure_text(&figure));
    format!("{how}: {}", figures.join(", "))
}

fn loss(figure: &Figure) -> String {
    format!("{:<LOSS$}", format!("{}  ", figure_text(figure)))
}

fn figure_text(figure: &Figure) -> String {
    format!("{} {}{}", figure.name, figure.value, rate(figure.rate))
}

/// Nothing before there is one.
fn rate(rate: Rate) -> String {
    rate.map_or_else(String::new, |tenths| {
        format!(" ({}.{}/s)", tenths / 10, tenths % 10)
    })
}

/// A line a vCPU: its part of the samples since the last change, or since the last look at the VM.
pub(super) fn bars(state: &State) -> Vec<String> {
    let mut bars: Vec<(String, u64, Rate)> = match &state.vm {
        Some(vm) => {
            let vcpus = vm.vcpus().into_iter().enumerate();
            vcpus
                .map(|(index, vcpu)| (index.to_string(), vcpu.recent, vcpu.rate))
                .collect()
        }
        None => {
            let names = state.snapshot.vcpus.iter().cloned();
            let recent = names.zip(state.recent_by_vcpu());
            recent.map(|(name, count)| (name, count, None)).collect()
        }
    };
    let sum = |bars: &[(String, u64, Rate)]| {
        bars.iter()
            .fold(0, |sum: u64, (_, count, _)| sum.saturating_add(*count))
    };
    let total = sum(&bars);
    let rest = bars.split_off(bars.len().min(MAX_BARS));
    if !rest.is_empty() {
        let mut rates = rest.iter().map(|(.., rate)| *rate);
        let rate = rates.try_fold(0_u64, |sum, rate| Some(sum.saturating_add(rate?)));
        bars.push((format!("{} more", rest.len()), sum(&rest), rate));
    }
    bars.into_iter()
        .map(|(name, count, speed)| {
            let filled = usize::try_from(part(count, total, BAR as u64)).unwrap_or(BAR);
            format!(
                "vCPU {name:>7} [{}{}] {:>5} % {count:>9}{}",
                "#".repeat(filled),
                " ".repeat(BAR.saturating_sub(filled)),
                percent(count, total),
                rate(speed),
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
    use super::super::vm::tests::look;
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

    /// The lines of a screen of 100 columns.
    fn lines(state: &State) -> Vec<String> {
        let text = drawn(state, true).backend().to_string();
        let lines = text.lines();
        lines
            .map(|line| line.trim_matches('"').trim_end().to_owned())
            .collect()
    }

    #[test]
    fn the_vms_own_account_is_shown_with_rates_and_stays_when_it_has_ended() {
        let mut state = started();
        let losses = |raced| [("no_mm", 3), ("raced", raced), ("lost_in_guest", 0)];
        state.update(Message::Look(look(0, [100, 0], &losses(0))));
        state.update(Message::Look(look(2, [130, 10], &losses(12))));
        let screen = lines(&state);
        let wanted = [
            "optop  1000 samples  sort: samples  (h: keys)",
            "VM, profiling runs: received 140 (40.0/s), lost 15 (12.0/s)",
            "  no_mm 3 (0.0/s)                       raced 12 (12.0/s)",
            "  lost_in_guest 0 (0.0/s)",
            "vCPU       0 [##############################          ]  75.0 %        30 (30.0/s)",
            "vCPU       1 [##########                              ]  25.0 %        10 (10.0/s)",
        ];
        assert_eq!(screen[..wanted.len()], wanted);
        assert!(screen[wanted.len()].starts_with("   samples"));
        // Three lines and the heading are left of ten.
        assert_eq!(page(&state, Size::new(100, 10)), 3);

        state.update(Message::VmEnded("The VM has ended".to_owned()));
        let ended = lines(&state);
        assert!(ended[0].contains("VM HAS ENDED"), "{ended:#?}");
        let last = "The VM has ended; its last state: received 140 (40.0/s), lost 15 (12.0/s)";
        assert_eq!(ended[1], last);
        assert_eq!(ended[2..], screen[2..]);
    }

    #[test]
    fn trouble_with_the_session_does_not_hide_what_the_vm_says() {
        let mut state = State::default();
        state.update(Message::Trouble("no samples yet".to_owned()));
        let mut silent = look(0, [0, 0], &[]);
        silent.status.said_hello = false;
        state.update(Message::Look(silent));
        let screen = lines(&state);
        assert_eq!(screen[1], "no samples yet");
        assert_eq!(
            screen[2],
            "VM, no guest driver has said hello: received 0, lost 0"
        );
        state.update(Message::Look({
            let mut stopped = look(1, [0, 0], &[]);
            stopped.status.started = false;
            stopped
        }));
        assert!(lines(&state)[2].starts_with("VM, profiling stopped: "));
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
