use std::collections::HashSet;
use std::io::Write;
use std::process::Command;

use super::line::encode;
use super::recent::{Recent, Written};
use super::*;
use crate::ledger::record::{Amendment, Outcome, Record};
use crate::unit::id::ExchangeId;
use crate::unit::usage::{Usage, UsageSource};

pub(crate) const ROOMY: JournalSettings = JournalSettings { segment_bytes: 1 << 20, max_bytes: 64 << 20 };

pub(crate) fn record(path: &str) -> Record {
    Record {
        operation: "chat".to_owned(),
        method: "POST".to_owned(),
        path: path.to_owned(),
        key_id: Some("key_1".into()),
        model_requested: Some("gpt-4o\nüñí".to_owned()),
        provider: Some("openai".into()),
        status: 200,
        outcome: Outcome::Answered,
        duration_us: 1_000,
        bytes_in: 10,
        bytes_out: 20,
        ..Record::blank(ExchangeId::new(), Timestamp(1_700_000_000_000_000))
    }
}

pub(super) fn line(path: &str) -> Line {
    Line::Record(record(path))
}

/// Reads a line of which no record is at hand.
fn decode(text: &[u8]) -> Option<Line> {
    super::line::decode(text, &Recent::default())
}

fn open(folder: &Path) -> Journal {
    Journal::open(folder, ROOMY).unwrap()
}

/// Every line that can be read from a journal, in order, and how many cannot.
pub(super) fn read_all(journal: &Journal) -> (Vec<Line>, u64) {
    let (mut lines, mut skipped) = (Vec::new(), 0);
    for segment in journal.queue() {
        let mut from = 0;
        loop {
            let piece = segment.read(from, 7).unwrap();
            lines.extend(piece.lines.into_iter().filter(|line| !matches!(line, Line::Gap(_))));
            skipped += piece.skipped;
            from = piece.end;
            if piece.is_last {
                break;
            }
        }
    }
    (lines, skipped)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A folder as a killed process leaves it: one segment with these bytes and a free lock.
fn orphan(folder: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(segment::name(Timestamp(1), 7, 0)), bytes).unwrap();
}

pub(super) fn frame(line: &Line) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(line, &mut bytes).unwrap();
    bytes
}

#[test]
fn every_damage_to_a_line_is_noticed() {
    let bytes = frame(&line("/v1/chat/completions"));
    let inner = &bytes[1..bytes.len() - 1];
    assert!(decode(inner).is_some());
    for position in 0..inner.len() {
        for flip in [1, 0x20, 0x80] {
            let mut damaged = inner.to_vec();
            damaged[position] ^= flip;
            // Two spellings of the same hexadecimal digit are the same checksum.
            assert!(
                decode(&damaged).is_none() || damaged.eq_ignore_ascii_case(inner) && position < 8,
                "byte {position}"
            );
        }
        assert!(decode(&inner[..position]).is_none());
    }
}

#[test]
fn a_line_that_is_too_long_is_refused_and_the_next_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let refused = journal.append(&line(&"x".repeat(MAX_LINE_BYTES))).unwrap_err();
    assert!(matches!(refused, JournalError::TooLong { .. }), "{refused}");
    journal.append(&line("/next")).unwrap();
    assert_eq!(read_all(&journal).0.len(), 1);
}

#[test]
fn what_was_appended_is_read_back_in_order_with_amendments() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let mut lines: Vec<Line> = (0..100).map(|n| line(&format!("/{n}"))).collect();
    lines.insert(50, line(&"long".repeat(200_000)));
    let usage = Usage { input: 3, ..Usage::default() };
    let (id, usage_source) = (ExchangeId::new(), UsageSource::Estimated);
    lines.push(Line::Amend(Amendment {
        id,
        usage,
        usage_source,
        cost: None,
        price: None,
        charges: Vec::new(),
        correction: None,
    }));
    for line in &lines {
        journal.append(line).unwrap();
    }
    assert_eq!(read_all(&journal), (lines, 0));
    assert!(journal.backlog_bytes() > 0 && journal.oldest_unfed().is_some());
}

#[test]
fn folder_and_files_are_for_the_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("data/journal");
    let journal = open(&place);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place), 0o700);
    assert_eq!(mode(&files(&place)[0]), 0o600);
    drop(journal);
}

#[test]
fn a_record_torn_at_any_byte_is_there_as_a_whole_or_not_at_all() {
    let (first, last) = (line("/first"), line("/last"));
    let whole = [frame(&first), frame(&last)].concat();
    let begin = frame(&first).len();
    for cut in begin..=whole.len() {
        let folder = tempfile::tempdir().unwrap();
        orphan(folder.path(), &whole[..cut]);
        let journal = open(folder.path());
        journal.append(&line("/new")).unwrap();
        let (lines, skipped) = read_all(&journal);
        assert_eq!(lines[0], first, "cut at {cut}");
        // Without its line end the last line is whole already.
        let survives = cut >= whole.len() - 1;
        assert_eq!(lines.contains(&last), survives, "cut at {cut}");
        assert_eq!(lines.len(), if survives { 3 } else { 2 }, "cut at {cut}");
        assert_eq!(skipped, u64::from(!survives && cut > begin + 1), "cut at {cut}");
    }
}

#[test]
fn a_torn_line_in_the_middle_costs_only_itself() {
    let (first, torn, last) = (line("/first"), frame(&line("/torn")), line("/last"));
    for cut in 2..torn.len() - 1 {
        let folder = tempfile::tempdir().unwrap();
        orphan(folder.path(), &[frame(&first), torn[..cut].to_vec(), frame(&last)].concat());
        assert_eq!(read_all(&open(folder.path())), (vec![first.clone(), last.clone()], 1), "cut at {cut}");
    }
}

#[test]
fn megabytes_of_noise_do_not_block_what_is_behind_them() {
    let folder = tempfile::tempdir().unwrap();
    let last = line("/last");
    orphan(folder.path(), &[frame(&line("/first")), vec![b'x'; 5 << 20], frame(&last)].concat());
    let (lines, skipped) = read_all(&open(folder.path()));
    assert_eq!((lines.len(), lines.last()), (2, Some(&last)));
    assert!(skipped > 0);
}

#[test]
fn a_segment_that_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let name = segment::name(Timestamp(1), 1, 1);
    std::fs::create_dir(folder.path().join(&name)).unwrap();
    let error = Journal::open(folder.path(), ROOMY).err().unwrap();
    assert!(error.text().contains(&name), "{}", error.text());
}

#[test]
fn two_journals_on_one_folder_leave_each_other_alone_until_one_dies() {
    let folder = tempfile::tempdir().unwrap();
    let old = open(folder.path());
    old.append(&line("/old")).unwrap();
    let new = open(folder.path());
    new.append(&line("/new")).unwrap();
    assert_eq!((read_all(&old).0.len(), read_all(&new).0.len()), (1, 1));
    assert_eq!(new.adopt().unwrap(), 0);
    drop(old);
    assert_eq!(new.adopt().unwrap(), 1);
    // What was there first comes first.
    let paths: Vec<String> = read_all(&new).0.into_iter().map(path_of).collect();
    assert_eq!(paths, ["/old", "/new"]);
    assert_eq!(open(folder.path()).adopt().unwrap(), 0);
}

fn path_of(line: Line) -> String {
    match line {
        Line::Record(record) => record.path,
        Line::Amend(_) | Line::Event(_) | Line::Charges(_) | Line::Gap(_) => String::new(),
    }
}

#[test]
fn nothing_is_lost_when_many_threads_append_across_rotations() {
    let folder = tempfile::tempdir().unwrap();
    let settings = JournalSettings { segment_bytes: 4_000, max_bytes: 64 << 20 };
    let journal = Journal::open(folder.path(), settings).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let journal = &journal;
            scope.spawn(move || {
                for n in 0..250 {
                    journal.append(&line(&format!("/{thread}/{n}"))).unwrap();
                }
            });
        }
    });
    let (lines, skipped) = read_all(&journal);
    let paths: Vec<String> = lines.into_iter().map(path_of).collect();
    assert_eq!((paths.iter().collect::<HashSet<_>>().len(), skipped), (2_000, 0));
    assert!(journal.queue().len() > 5, "{} segments", journal.queue().len());
    // Lines of one thread stay in order, over all segments.
    for thread in 0..8 {
        let own: Vec<&String> = paths.iter().filter(|path| path.starts_with(&format!("/{thread}/"))).collect();
        let numbers: Vec<u32> = own.iter().map(|path| path.rsplit('/').next().unwrap().parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "thread {thread}");
    }
    assert_eq!(journal.held_bytes(), journal.queue().iter().map(|segment| segment.written()).sum::<u64>());
    assert_eq!(journal.backlog_bytes(), journal.held_bytes());
}

#[test]
fn a_full_journal_refuses_until_segments_are_retired() {
    let folder = tempfile::tempdir().unwrap();
    let settings = JournalSettings { segment_bytes: 1 << 30, max_bytes: 20_000 };
    let journal = Journal::open(folder.path(), settings).unwrap();
    let refused = std::iter::repeat_with(|| journal.append(&line("/x"))).take(1_000).find_map(Result::err);
    assert!(matches!(refused, Some(JournalError::Full { limit_bytes: 20_000 })), "{refused:?}");
    assert_eq!(Error::from(refused.unwrap()).kind(), Kind::Unavailable);
    assert!(journal.held_bytes() <= 20_000);
    // A finished segment exists although segments may be larger than the bound.
    let oldest = journal.queue().remove(0);
    assert!(oldest.is_finished());
    journal.set_fed(&oldest, oldest.written());
    journal.retire(&oldest).unwrap();
    journal.append(&line("/x")).unwrap();
}

#[test]
fn a_fed_journal_leaves_a_mark_behind_until_its_positions_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    journal.append(&line("/x")).unwrap();
    let segment = journal.queue().remove(0);
    journal.set_fed(&segment, segment.written());
    assert_eq!((journal.backlog_bytes(), journal.oldest_unfed()), (0, None));
    let name = segment.name().clone();
    drop(segment);
    drop(journal);
    assert!(matches!(files(folder.path()).as_slice(), [mark] if mark.metadata().unwrap().len() == 0));

    let next = open(folder.path());
    assert_eq!((next.gone().unwrap(), next.backlog_bytes()), (vec![name.to_string()], 0));
    next.bury(&name).unwrap();
    drop(next);
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn the_owner_is_what_the_names_of_segments_begin_with() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let name = journal.queue().remove(0).name().clone();
    assert_eq!(segment::owner(&name), Some(journal.owner().as_str()));
    assert_eq!(segment::owner("notes.txt"), None);
}

#[test]
fn sync_covers_every_segment_and_then_has_nothing_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path(), JournalSettings { segment_bytes: 500, max_bytes: 1 << 20 }).unwrap();
    for _ in 0..5 {
        journal.append(&line("/x")).unwrap();
    }
    assert!(journal.needs_sync());
    journal.sync().unwrap();
    assert!(!journal.needs_sync());
}

/// Marks a folder in which the ignored tests below may do harm to their process.
const VICTIM: &str = "victim";

/// Runs one of the ignored tests below in a process of its own, in a folder.
fn in_a_process(script: &str, test: &str, folder: &Path) -> std::process::Output {
    std::fs::write(folder.join(VICTIM), "").unwrap();
    let program = std::env::current_exe().unwrap();
    Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(program)
        .args(["--ignored", "--exact", "--nocapture", "--test-threads=1"])
        .arg(format!("ledger::journal::tests::{test}"))
        .current_dir(folder)
        .output()
        .unwrap()
}

#[test]
fn a_disk_that_fills_up_refuses_lines_and_harms_none_that_were_taken() {
    let folder = tempfile::tempdir().unwrap();
    // A limit on the size of files stands for the full disk: like it, it cuts the write that crosses it short and refuses the
    // next. 16 blocks of 512 or 1,024 bytes.
    let output =
        in_a_process(r#"trap "" XFSZ; ulimit -f 16; exec "$@""#, "append_until_the_disk_is_full", folder.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let journal = open(folder.path());
    let (lines, skipped) = read_all(&journal);
    let taken: usize = std::fs::read_to_string(folder.path().join("taken")).unwrap().parse().unwrap();
    assert!(taken > 10 && lines.len() == taken, "{taken} taken, {} read", lines.len());
    assert_eq!(
        skipped, 1,
        "the line that was cut short, of which nobody can say any more whether it was written again"
    );
}

#[test]
#[ignore = "a part of the test above, run in a process with a limit on the size of files"]
fn append_until_the_disk_is_full() {
    if !Path::new(VICTIM).exists() {
        return;
    }
    let journal = Journal::open(".", ROOMY).unwrap();
    let taken = std::iter::repeat_with(|| journal.append(&line("/x"))).take_while(Result::is_ok).count();
    assert!(taken < 1_000 && journal.torn_writes() > 0);
    // Whoever wanted the torn line written was told, so nothing is missing as long as this process lives.
    let found = journal.queue().iter().map(|segment| segment.read(0, 2_000).unwrap()).fold((0, 0), |sum, piece| {
        let gaps = piece.lines.iter().filter(|line| matches!(line, Line::Gap(_))).count();
        (sum.0 + piece.lines.len(), sum.1 + gaps + piece.skipped as usize)
    });
    assert_eq!(found, (taken, 0));
    std::fs::write("taken", taken.to_string()).unwrap();
}

#[test]
fn a_process_killed_while_it_appends_loses_nothing_that_it_reported() {
    let folder = tempfile::tempdir().unwrap();
    let output = in_a_process(r#"exec "$@""#, "append_until_killed", folder.path());
    assert!(!output.status.success());
    let reported: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|text| text.strip_prefix("appended ").map(str::to_owned))
        .collect();
    let read: HashSet<String> = read_all(&open(folder.path())).0.into_iter().map(path_of).collect();
    assert!(reported.len() >= 200, "{}", reported.len());
    assert!(reported.iter().all(|path| read.contains(path)));
}

#[test]
#[ignore = "a part of the test above: it kills its own process"]
fn append_until_killed() {
    if !Path::new(VICTIM).exists() {
        return;
    }
    let settings = JournalSettings { segment_bytes: 10_000, max_bytes: 64 << 20 };
    let journal = Journal::open(".", settings).unwrap();
    for n in 0..100_000 {
        journal.append(&line(&format!("/{n}"))).unwrap();
        writeln!(std::io::stdout(), "appended /{n}").unwrap();
        if n == 300 {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
        }
    }
}

#[test]
fn a_line_reads_the_same_with_and_without_its_record() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let records: Vec<Record> = (0..5_000).map(|number| record(&format!("/{number}"))).collect();
    for record in &records {
        let written = journal.append_record(record).unwrap();
        journal.hand_over(written, record.clone());
    }
    let expected: Vec<Line> = records.into_iter().map(Line::Record).collect();
    assert_eq!(read_all(&journal), (expected.clone(), 0));
    assert_eq!(read_all(&journal), (expected, 0), "nothing is at hand any more");
}

#[test]
fn a_record_is_given_for_the_very_line_only() {
    let (one, recent) = (record("/one"), Recent::default());
    let mut frame = Vec::new();
    let written = encode(&Line::Record(one.clone()), &mut frame).unwrap();
    let text = frame.trim_ascii();
    // Another line of the same id, as nobody writes it, and a line that was damaged.
    recent.keep(Written(!written.0), Record { status: 500, ..one.clone() });
    assert_eq!(super::line::decode(text, &recent), Some(Line::Record(one.clone())));
    recent.keep(written, one);
    let mut torn = text.to_vec();
    torn[60] ^= 1;
    assert_eq!(super::line::decode(&torn, &recent), None);
}

#[test]
fn a_journal_is_in_use_while_a_process_may_write_to_it() {
    let folder = tempfile::tempdir().unwrap();
    assert!(!in_use(&folder.path().join("none")).unwrap());
    assert!(!in_use(folder.path()).unwrap());
    let journal = Journal::open(folder.path(), ROOMY).unwrap();
    journal.append_record(&record("/x")).unwrap();
    assert!(in_use(folder.path()).unwrap());
    drop(journal);
    assert!(!in_use(folder.path()).unwrap(), "what it left behind is nobody's");
}
