//! Races the copier against what an administrator would reach for, in turn, and prints the medians.
//!
//! `cargo run --release -p connect-migrator-copy-bench -- [files] [rounds] [round trip in µs]`

use connect_migrator_copy_bench::{Place, change, differences, grow, need, timed};
use std::io::Result;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const FILES: u64 = 10_000;
const ROUNDS: u64 = 5;
const ROUND_TRIP_MICROS: u64 = 500;
const RSYNC: &str = "rsync -aHAX --numeric-ids";
const XCP_VERSION: &str = "0.24.9";
/// Folders of the tree that are runtime caches.
const CACHES: [&str; 2] = ["packrat", "python-environments"];

struct Row {
    what: &'static str,
    method: String,
    seconds: Vec<f64>,
    trips: u64,
    memory_kib: u64,
    said: String,
}

struct Bench {
    work: PathBuf,
    source: PathBuf,
    copier: PathBuf,
    place: Place,
    files: u64,
    rows: Vec<Row>,
    peers: Vec<(&'static str, String)>,
}

fn main() -> ExitCode {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let number = |at: usize, default: u64| numbers.get(at).copied().unwrap_or(default);
    match race(number(0, FILES), number(1, ROUNDS), number(2, ROUND_TRIP_MICROS)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the bench broke off: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_there(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join(program).is_file())
}

/// The copier of crates.io that comes nearest; installed below `target/tools` if need be. It keeps neither ACLs nor hard links.
fn xcp(own: &Path, cargo: &str) -> Result<Option<PathBuf>> {
    let Some(target) = own.ancestors().nth(2) else { return Ok(None) };
    let root = target.join("tools");
    let xcp = root.join("bin/xcp");
    if !xcp.exists() {
        println!("xcp {XCP_VERSION} is missing and is installed below {}", root.display());
        timed(&format!("{cargo} install --locked --root '{}' xcp@{XCP_VERSION}", root.display()), true)?;
    }
    Ok(xcp.exists().then_some(xcp))
}

/// What a peer says of itself: figures mean nothing without its version.
fn version(line: &str) -> String {
    let ran = std::process::Command::new("bash").args(["-c", line]).output();
    let said = ran.map(|ran| String::from_utf8_lossy(&ran.stdout).into_owned()).unwrap_or_default();
    said.lines().next().unwrap_or("unknown").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn race(files: u64, rounds: u64, micros: u64) -> Result<()> {
    need(&[
        ("cc", "gcc"),
        ("pkg-config", "pkg-config"),
        ("fusermount3", "fuse3"),
        ("/usr/include/fuse3/fuse.h", "libfuse3-dev"),
        ("time", "time"),
        ("fpsync", "fpart"),
    ]);
    let work = std::env::temp_dir().join("connect-migrator-copy-bench");
    let _ = std::fs::remove_dir_all(&work);
    let source = work.join("source");
    let made = grow(&source, files, files / 2_000, 2, 1)?;
    println!(
        "{} files, {} folders, {} symbolic links, {} hard links, {} MiB; {rounds} rounds, round trip {micros} µs",
        made.files,
        made.folders,
        made.symlinks,
        made.links,
        made.bytes >> 20
    );
    println!(
        "beside it: {}; {}; xcp {XCP_VERSION}",
        version("rsync --version"),
        version("dpkg-query -W -f '${Package} ${Version}' fpart")
    );
    let own = std::env::current_exe()?;
    let copier = own.with_file_name("connect-migrator-copy");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    timed(&format!("{cargo} build --release -p connect-migrator-copy"), false)?;
    let place = Place::new(&work)?;
    place.build_delay()?;
    let mut peers = vec![("rsync", format!("{RSYNC} {{s}}/ {{d}}/"))];
    if is_there("fpsync") {
        peers.push((
            "fpsync -n 32",
            "rm -rf {w}/fp; fpsync -n 32 -f 100 -t {w}/fp -o '-lptgoDHAX --numeric-ids' {s}/ {d}/".into(),
        ));
    }
    if let Some(xcp) = xcp(&own, &cargo)? {
        let line = format!("{} -r -o --no-progress -w 64 -T {{s}} {{d}}/x", xcp.display());
        peers.push(("xcp -w 64", line));
    }
    let mut bench = Bench { work, source, copier, place, files: made.files, rows: Vec::new(), peers };
    bench.trips()?;
    for round in 0..rounds {
        println!("round {}", round + 1);
        bench.near_and_far(Some(micros))?;
        bench.near_and_far(None)?;
        bench.local(false)?;
        bench.local(true)?;
        bench.caches(micros)?;
    }
    bench.print();
    Ok(())
}

impl Bench {
    fn fill(&self, line: &str, source: &Path, target: &Path) -> String {
        line.replace("{s}", &source.display().to_string())
            .replace("{d}", &target.display().to_string())
            .replace("{w}", &self.work.display().to_string())
    }

    fn ours(&self, more: &str) -> String {
        format!("{} copy {{s}} {{d}} --manifest {{w}}/manifest {more}", self.copier.display())
    }

    fn note(&mut self, what: &'static str, method: &str, (seconds, memory_kib): (f64, u64), trips: u64) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.what == what && row.method == method) {
            row.seconds.push(seconds);
            row.trips = trips;
            row.memory_kib = row.memory_kib.max(memory_kib);
            return;
        }
        let (method, seconds) = (method.to_owned(), vec![seconds]);
        self.rows.push(Row { what, method, seconds, trips, memory_kib, said: String::new() });
    }

    /// The first pass, one with nothing changed, one with 1 % changed, and a comparison of content, each by every method in turn.
    fn near_and_far(&mut self, micros: Option<u64>) -> Result<()> {
        let names = if micros.is_some() {
            ["first pass, far", "nothing changed, far", "1 % changed, far", "all content compared, far"]
        } else {
            [
                "first pass, local, by all",
                "nothing changed, local",
                "1 % changed, local",
                "all content compared, local",
            ]
        };
        let [first, nothing, some, compared] = names;
        for (name, line) in self.peers.clone() {
            let target = self.place.fresh(micros)?;
            let took = timed(&self.fill(&line, &self.source, &target), true)?;
            let trips = self.place.trips()?;
            self.note(first, name, took, trips);
            if name == "rsync" {
                self.later(
                    name,
                    [nothing, some, compared],
                    micros,
                    [
                        "rsync -aHAX --numeric-ids {s}/ {d}/".into(),
                        "rsync -aHAX --numeric-ids --delete {s}/ {d}/".into(),
                        "rsync -aHAXnc --numeric-ids {s}/ {d}/".into(),
                    ],
                )?;
            }
        }
        let target = self.place.fresh(micros)?;
        let _ = std::fs::remove_file(self.work.join("manifest"));
        let live = self.live()?;
        let took = timed(&self.fill(&self.ours(""), &live, &target), false)?;
        let trips = self.place.trips()?;
        self.note(first, "ours", took, trips);
        let verify = format!("{} verify {{s}} {{d}}", self.copier.display());
        let lines = [self.ours(""), self.ours(""), verify];
        self.later_on(&live, "ours", [nothing, some, compared], micros, lines)
    }

    /// The first pass from disk to disk, like beside like: both may be lost in a power cut, or both are made to last. Cold: nothing of
    /// the source is in memory.
    fn local(&mut self, cold: bool) -> Result<()> {
        let (loose, lasting) = if cold {
            ("first pass, local, cold, not made to last", "first pass, local, cold, made to last")
        } else {
            ("first pass, local, warm, not made to last", "first pass, local, warm, made to last")
        };
        let rsync = format!("{RSYNC} {{s}}/ {{d}}/");
        let methods = [
            (loose, "rsync", rsync.clone()),
            (loose, "ours", self.ours("--durability none")),
            (lasting, "rsync", format!("{rsync} && sync -f {{d}}")),
            (lasting, "ours", self.ours("")),
        ];
        for (what, method, line) in methods {
            let target = self.place.fresh(None)?;
            let _ = std::fs::remove_file(self.work.join("manifest"));
            timed(if cold { "sync; echo 3 >/proc/sys/vm/drop_caches" } else { "sync" }, false)?;
            let took = timed(&self.fill(&line, &self.source, &target), false)?;
            self.note(what, method, took, 0);
        }
        Ok(())
    }

    /// Trips do not depend on the machine: counted once, at a server that holds what NFS 4.2 holds.
    fn trips(&mut self) -> Result<()> {
        let what = "trips of a first pass, as NFS 4.2";
        self.place.holds = "4";
        let mut lines = self.peers.clone();
        lines.push(("ours", self.ours("")));
        for (name, line) in lines {
            let _ = std::fs::remove_file(self.work.join("manifest"));
            let target = self.place.fresh(Some(0))?;
            let took = timed(&self.fill(&line, &self.source, &target), true)?;
            let trips = self.place.trips()?;
            self.note(what, name, took, trips);
        }
        self.place.holds = "any";
        Ok(())
    }

    /// A copy of the source that may change.
    fn live(&self) -> Result<PathBuf> {
        let live = self.work.join("live");
        timed(
            &format!("rm -rf '{0}'; cp -a '{1}' '{0}'; sleep 0.1", live.display(), self.source.display()),
            false,
        )?;
        Ok(live)
    }

    fn later(
        &mut self,
        name: &str,
        whats: [&'static str; 3],
        micros: Option<u64>,
        lines: [String; 3],
    ) -> Result<()> {
        let live = self.live()?;
        self.later_on(&live, name, whats, micros, lines)
    }

    fn later_on(
        &mut self,
        live: &Path,
        name: &str,
        whats: [&'static str; 3],
        micros: Option<u64>,
        lines: [String; 3],
    ) -> Result<()> {
        let [nothing, some, compared] = whats;
        let [again, catch_up, compare] = lines;
        for (what, line) in [(nothing, again), (some, catch_up), (compared, compare)] {
            if what == some {
                change(live, 7)?;
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            // Mounted anew: the client remembers nothing.
            let target = self.place.behind(micros)?;
            let took = timed(&self.fill(&line, live, &target), what == compared)?;
            let trips = self.place.trips()?;
            self.note(what, name, took, trips);
            if what == some {
                let near = self.place.behind(None)?;
                let differ = differences(live, &near);
                let said = if differ.is_empty() {
                    "the same".to_owned()
                } else {
                    format!("differs: {}", differ.first().map_or("", String::as_str))
                };
                if let Some(row) = self.rows.iter_mut().find(|row| row.what == what && row.method == name) {
                    row.said = said;
                }
            }
        }
        Ok(())
    }

    /// Caches left out, against copying and then clearing them.
    fn caches(&mut self, micros: u64) -> Result<()> {
        let what = "caches left out / copied and cleared, far";
        let target = self.place.fresh(Some(micros))?;
        let clear: Vec<String> = CACHES.iter().map(|cache| format!("{{d}}/{cache}")).collect();
        let line = format!("rsync -aHAX --numeric-ids {{s}}/ {{d}}/ && rm -rf {}", clear.join(" "));
        let took = timed(&self.fill(&line, &self.source, &target), true)?;
        let trips = self.place.trips()?;
        self.note(what, "rsync", took, trips);
        let target = self.place.fresh(Some(micros))?;
        let _ = std::fs::remove_file(self.work.join("manifest"));
        let left_out: Vec<String> = CACHES.iter().map(|cache| format!("--exclude {cache}")).collect();
        let took = timed(&self.fill(&self.ours(&left_out.join(" ")), &self.source, &target), false)?;
        let trips = self.place.trips()?;
        self.note(what, "ours", took, trips);
        Ok(())
    }

    fn print(&self) {
        println!(
            "{:<42} {:<14} {:>9} {:>17} {:>9} {:>11} {:>9}  result",
            "job", "method", "median s", "min .. max", "trips", "trips/file", "MiB"
        );
        for row in &self.rows {
            let mut seconds = row.seconds.clone();
            seconds.sort_by(f64::total_cmp);
            let median = seconds.get(seconds.len() / 2).copied().unwrap_or_default();
            let (least, most) =
                (seconds.first().copied().unwrap_or_default(), seconds.last().copied().unwrap_or_default());
            let ours = self.rows.iter().find(|other| other.what == row.what && other.method == "ours");
            let times = ours.filter(|_| row.method != "ours").map_or(String::new(), |ours| {
                let mut ratios: Vec<f64> =
                    row.seconds.iter().zip(&ours.seconds).map(|(theirs, ours)| theirs / ours).collect();
                ratios.sort_by(f64::total_cmp);
                format!(
                    "ours is {:.1} times as fast ",
                    ratios.get(ratios.len() / 2).copied().unwrap_or_default()
                )
            });
            println!(
                "{:<42} {:<14} {median:>9.2} {:>17} {:>9} {:>11.2} {:>9.1}  {times}{}",
                row.what,
                row.method,
                format!("{least:.2} .. {most:.2}"),
                row.trips,
                row.trips as f64 / self.files as f64,
                row.memory_kib as f64 / 1024.0,
                row.said
            );
        }
    }
}
