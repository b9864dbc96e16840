//! What keeps the container from starting when it must not, after a reboot too.
//!
//! systemd itself asserts that the migration has handed over. The rest is a script that runs before every start, because its words
//! stand in the unit's journal, and because it compares exactly: a unit file of the administrator's own is no mask.

use connect_migrator_container::world::Subject;
use std::path::Path;

/// The script.
#[must_use]
pub fn script(subject: &Subject<'_>, data_dir: &Path) -> String {
    let name = &subject.names.container;
    let source = &subject.source.unit;
    let mask = quoted(&subject.masked_unit().to_string_lossy());
    let data = quoted(&subject.data_guard(data_dir).to_string_lossy());
    let refused = format!("The container {name} is not started:");
    let masked = quoted(&format!(
        "{refused} {source} is not masked, and two servers would use one database. To go on with the container: systemctl disable --now {source}; systemctl mask {source}; systemctl start {name}"
    ));
    let mounted = quoted(&format!(
        "{refused} {} is not the data directory that it was made for. See that its storage is mounted, then: systemctl start {name}",
        data_dir.display()
    ));
    format!(
        "#!/bin/sh\n\
         # Written by connect-migrator. {name}.service runs it before every start.\n\
         if [ \"$(readlink {mask})\" != /dev/null ]; then\n\
         \techo {masked} >&2\n\
         \texit 1\n\
         fi\n\
         if ! [ -e {data} ]; then\n\
         \techo {mounted} >&2\n\
         \texit 1\n\
         fi\n"
    )
}

/// For the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
