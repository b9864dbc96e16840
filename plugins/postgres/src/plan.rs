//! What the step will change, as `connect-migrator plan` shows it.

use crate::check::WAY_BACK;
use crate::settings::Compare;
use crate::subject::{self, Subject};
use connect_migrator_connect::gcfg::Gcfg;
use connect_migrator_connect::installation::DatabaseProvider;
use connect_migrator_connect::secrets;
use connect_migrator_connect::source_edits::EditValue;
use connect_migrator_sdk::{Change, Op, StepError};

/// Stands for the encrypted password, which is made in `prepare`.
const PLACE_OF_PASSWORD: &str = "encrypted";

/// Says what will be done. Reads only.
///
/// # Errors
/// When the installation or a URL cannot be read.
pub fn plan(subject: &Subject<'_>) -> Result<Vec<Change>, StepError> {
    let installation = subject.installed()?;
    if installation.database_provider == DatabaseProvider::Postgres {
        return Ok(Vec::new());
    }
    let urls = subject.urls().map_err(|(which, error)| {
        StepError::new(format!("read the URL of {which}")).because(error).remedy("correct it in the runbook")
    })?;
    let places: Vec<String> = urls.iter().map(|(which, url)| format!("{which} {}", url.place())).collect();
    let chosen = subject::choose(subject.settings, &subject::sqlite_dir(&installation));
    let names: Vec<String> = chosen
        .map(|chosen| chosen.files.iter().map(|file| file.path.display().to_string()).collect())
        .unwrap_or_default();
    let migrate = subject.program("migrate");
    let mut all = Vec::new();
    if subject.settings.password.is_some() {
        all.push(Change::new(
            Op::Prepare,
            format!(
                "encrypt the password with {} (its standard input)",
                subject.program("rscadmin").display()
            ),
        ));
    }
    all.push(Change::new(
        Op::Prepare,
        format!("stage the configuration in {}", subject.cx.state_dir().display()),
    ));
    all.push(Change::new(Op::Apply, format!("save {} with what SQLite keeps beside them", names.join(", "))));
    all.push(Change::new(
        Op::Apply,
        format!(
            "copy the data into {} with {}, for up to {}",
            places.join(" and "),
            migrate.display(),
            subject.settings.tool_timeout
        ),
    ));
    let depth = match subject.settings.compare {
        Compare::All => "every row".to_owned(),
        Compare::Sample => format!("{} rows of it, spread over the table", subject.settings.sample_rows),
    };
    all.push(Change::new(
        Op::Apply,
        format!("compare SQLite and PostgreSQL ourselves: of every table the number of rows, and the content of {depth}"),
    ));
    all.push(
        Change::new(Op::Apply, format!("switch {} to PostgreSQL", subject.config().display()))
            .with_diff(diff(subject, &installation.gcfg)?)
            .fact(subject.edits_key(), &subject.edits()),
    );
    all.push(Change::new(Op::Rollback, WAY_BACK));
    Ok(all)
}

/// The configuration after the switch against what it is, without secrets.
///
/// # Errors
/// When the configuration cannot be edited.
pub(crate) fn diff(subject: &Subject<'_>, before: &Gcfg) -> Result<String, StepError> {
    let mut after = before.clone();
    for edit in subject.edits().edits {
        let value = match &edit.value {
            EditValue::Text(text) => text,
            EditValue::File(_) => PLACE_OF_PASSWORD,
        };
        if after.get(&edit.section, None, &edit.key).as_deref() != Some(value) {
            after
                .set(&edit.section, None, &edit.key, value)
                .map_err(|error| StepError::new("edit the configuration").because(error))?;
        }
    }
    let (before, after) = (secrets::redact_gcfg(before), secrets::redact_gcfg(&after));
    let name = subject.config().display().to_string();
    Ok(similar::TextDiff::from_lines(before.as_str(), after.as_str())
        .unified_diff()
        .header(&name, &name)
        .to_string())
}
