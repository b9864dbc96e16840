//! What the step will change, as `connect-migrator plan` shows it.

use crate::container_spec::{self, Hold};
use crate::gate::SHELL;
use crate::ordering;
use connect_migrator_container::plan;
use connect_migrator_container::port;
use connect_migrator_container::storage;
use connect_migrator_container::world::Subject;
use connect_migrator_sdk::{Change, Context, Op, StepError};

/// Says what will be done. Reads only.
///
/// # Errors
/// When the installation cannot be read.
pub async fn plan(subject: &Subject<'_>, cx: &Context) -> Result<Vec<Change>, StepError> {
    let planned = plan::look(subject, cx).await?;
    let name = &subject.names.container;
    let mut all = planned.first(subject);
    if let Some(mounted) = ordering::data_mount(subject, &planned.installation) {
        all.push(Change::new(
            Op::Prepare,
            format!(
                "order docker after {} by {}",
                storage::mount_unit(&mounted.at),
                ordering::drop_in(subject).display()
            ),
        ));
    }
    let made = plan::made(subject);
    let hold = Hold::of(subject, &planned.installation);
    let (made_ready, start) = match hold {
        Hold::AtTheGate => (
            format!(
                "start the container {name} ({made}) with Connect held back in it, for which the image needs {SHELL}"
            ),
            "let Connect start in the container",
        ),
        Hold::Not if port::is_the_sources(subject, &planned.installation) => (
            format!(
                "create the container {name} ({made}), not started: its port is the source's until that is stopped"
            ),
            "start the container",
        ),
        Hold::Not => (format!("create the container {name} ({made}), not started"), "start the container"),
    };
    all.push(Change::new(Op::Prepare, made_ready));
    all.extend(container_spec::binds(subject, &planned.parts(subject), hold).iter().map(plan::mount));
    all.extend(planned.environment(subject));
    all.push(Change::new(
        Op::Apply,
        format!(
            "{start} {name}, wait up to {} until Connect of this host's version answers at {}, and let it come up with the machine",
            subject.settings.start_timeout,
            subject.address()
        ),
    ));
    all.push(plan::way_back(subject));
    Ok(all)
}
