//! A throwaway Debian server under qemu, for tests: real systemd, D-Bus, journald, docker, podman, PostgreSQL, nginx, kernel
//! NFS, and a docker registry on its loopback. Nothing in it reaches outside; nothing of it stays on the host but a
//! cache folder below `target/`.
//!
//! ```no_run
//! use connect_migrator_rig::{Cache, Image, JournalQuery, Key, Machine, Snapshot, Suite, host};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cache = Cache::of_workspace();
//! host::require(|line| cache.say(line))?; // installs missing Debian packages when it may
//! let choice = Suite::best_for_host()?; // trixie, or bookworm on an old qemu; choice.why says which and why
//!
//! let image = Image::build(choice.suite, &cache)?; // minutes, once
//! let booted = Snapshot::booted(&cache, &image)?; // a minute or two, once
//! let deb = std::path::Path::new("connect-migrator.deb");
//! let key = Key::of([std::fs::read(deb)?]);
//! let ready = booted.prepared(&cache, "demo", &key, |machine| { // once per key
//!     machine.copy_to(deb, "/root/it.deb")?;
//!     machine.check("apt-get install -y --no-download /root/it.deb").map(drop)
//! })?;
//!
//! let machine = Machine::from_snapshot(&cache, &ready)?; // seconds, each with its own disk
//! let cursor = machine.journal_cursor()?;
//! machine.check("systemctl start connect-migrator@prod")?;
//! for entry in machine.journal(&JournalQuery::unit("connect-migrator@prod").after(&cursor))? {
//!     println!("{:?} {}", entry.get("STEP"), entry.message());
//! }
//! machine.power_cut()?;
//! assert_eq!(machine.boot()?, "running");
//! # Ok(())
//! # }
//! ```
//!
//! Methods block; a [`Machine`] can be used from several threads at once.
//!
//! What the guest has besides its packages (`recipe/packages`): `docker-registry` on `127.0.0.1:5000` (docker and
//! podman accept it without TLS), a journal that is on disk within a second, `/srv/nfs` for exports, no timers that
//! wake up by themselves, no way to the outside. Its address is 10.0.2.15, its host name `rig`.

mod cache;
mod error;
pub mod host;
mod image;
mod journal;
mod machine;
mod program;
mod qemu;
mod qmp;
mod selftest;
mod snapshot;
mod sources;
mod ssh;
mod suite;
mod warden;

pub use cache::{Cache, Key};
pub use error::Error;
pub use image::Image;
pub use journal::{JournalEntry, JournalQuery};
pub use machine::{BOOT_DEADLINE, COMMAND_DEADLINE, Keep, Machine, Output};
pub use selftest::selftest;
pub use snapshot::Snapshot;
pub use suite::{Choice, Suite};
