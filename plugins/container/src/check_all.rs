//! Everything that a check looks at, put together.

use crate::settings::Settings;
use crate::world::{Subject, World};
use crate::{check, check_engine, content, port};
use connect_migrator_sdk::{Context, Finding, StepError};

/// Every finding; a part that cannot be read does not keep the others back.
///
/// # Errors
/// When the settings themselves cannot be used.
pub async fn check_all(config: &Settings, cx: &Context, world: &World) -> Result<Vec<Finding>, StepError> {
    let subject = Subject::new(config, world, cx)?;
    let read = subject.installation();
    let installation = read.as_ref().ok();
    let source = installation.and_then(|i| i.version);
    let engine = check_engine::engine(&subject, cx, source).await;
    let mut found = engine.found;
    if let (Ok(installation), Some(facts), Some(reference)) = (&read, &engine.image, &engine.reference) {
        found.extend(content::interpreters(&subject, cx, installation, facts, reference).await);
    }
    match &read {
        Ok(installation) => {
            found.extend(check::installation(&subject, installation));
            found.extend(check::derivation(check::derive(&subject, installation, engine.image)));
        }
        Err(error) => found.push(check::unreadable(error)),
    }
    found.push(check::licence(&subject, installation.map(|i| i.data_dir.as_path())));
    if !engine.own_container_runs {
        found.push(port::port(&subject, installation));
    }
    found.extend(check::extras(&subject));
    Ok(found)
}
