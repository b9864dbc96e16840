//! What a migration leaves on the host, so that nobody looks for it, or takes it for what is in use.

use crate::engine::Plan;
use connect_migrator_connect::installation::{DatabaseProvider, Installation, Places};
use connect_migrator_sdk::Role;
use std::path::PathBuf;

/// What of the source is of interest here.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Host {
    data_dir: PathBuf,
    /// Where SQLite keeps its files, if that is the database.
    database: Option<PathBuf>,
}

impl Host {
    /// As the source's files say; `None` when they cannot be read: the checks say why.
    pub(super) fn of(plan: &Plan) -> Option<Self> {
        let read = Installation::read_files_at(&plan.source, &Places::default()).ok()?;
        let sqlite = read.database_provider == DatabaseProvider::Sqlite;
        Some(Host { data_dir: read.data_dir, database: sqlite.then_some(read.database_dir) })
    }
}

/// What stays, a sentence each.
pub(super) fn stays(plan: &Plan, host: Option<&Host>) -> Vec<String> {
    let has = |role| plan.steps.iter().any(|step| step.info.role == role);
    let uses = |plugin: &str| plan.steps.iter().any(|step| step.plugin.name() == plugin);
    let mut stays = Vec::new();
    if has(Role::StopsSource) {
        stays.push(format!(
            "the unit {0}, masked after the commit: /etc/systemd/system/{0} leads to /dev/null, and the old server cannot start",
            plan.source.unit
        ));
    }
    if has(Role::StartsTarget) {
        stays.push(format!(
            "the product in {}, and its configuration {}",
            plan.source.install_dir.display(),
            plan.source.config.display()
        ));
        stays.push("the image of the container, also after a rollback".into());
    }
    if uses("nfs") {
        let from =
            host.map_or_else(|| "their old place".to_owned(), |host| host.data_dir.display().to_string());
        stays.push(format!("the data in {from}: they are copied, not moved"));
    }
    if uses("postgres") {
        let sqlite = host.and_then(|host| host.database.as_ref());
        let from = sqlite.map_or_else(String::new, |folder| format!(" in {}", folder.display()));
        stays.push(format!("the old database{from}: it is copied into PostgreSQL"));
    }
    stays
}

#[cfg(test)]
mod tests {
    use super::super::window_estimate::tests::plan;
    use super::*;

    #[test]
    fn what_stays_is_named_as_far_as_it_is_known() {
        let moves = [
            ("postgres", Role::Other),
            ("nfs", Role::Other),
            ("stop", Role::StopsSource),
            ("docker", Role::StartsTarget),
        ];
        let data_dir = PathBuf::from("/var/lib/rstudio-connect");
        let host = Host { database: Some(data_dir.join("db")), data_dir };
        let known = stays(&plan(&moves), Some(&host)).join("\n");
        let unknown = stays(&plan(&moves), None).join("\n");
        insta::assert_snapshot!(format!("{known}\n\n{unknown}"));
        assert!(stays(&plan(&[("content", Role::Other)]), Some(&host)).is_empty());
    }
}
