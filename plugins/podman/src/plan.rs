//! What the step will change, as `connect-migrator plan` shows it.

use crate::check::labels;
use crate::ground::{Form, Ground, guard, handed_over, unit, unit_file};
use crate::socket::Socket;
use crate::systemd::Units;
use crate::unit::{Making, text};
use connect_migrator_container::plan;
use connect_migrator_container::spec;
use connect_migrator_container::world::Subject;
use connect_migrator_sdk::{Change, Context, Op, StepError};

/// Says what will be done. Reads only.
///
/// # Errors
/// When the installation cannot be read.
pub async fn plan<S: Units>(
    ground: &Ground<S>,
    subject: &Subject<'_>,
    cx: &Context,
) -> Result<Vec<Change>, StepError> {
    let socket = Socket::open(&ground.systemd, subject).await;
    let planned = plan::look(subject, cx).await;
    socket.close().await;
    let planned = planned?;
    let parts = planned.parts(subject);
    let selinux = labels(ground, subject, &parts);
    let form = ground.form();
    let file = unit_file(subject, form);
    let unit = unit(subject);
    let mut all = planned.first(subject);
    all.push(Change::new(
        Op::Prepare,
        format!(
            "write {}, which {unit} runs before every start: no start unless {} is masked, none on an empty data directory",
            guard(subject).display(),
            subject.source.unit
        ),
    ));
    let how = match form {
        Form::Quadlet => format!("write {}, of which podman's Quadlet makes {unit}", file.display()),
        Form::Unit => format!("write and enable {} (this podman has no Quadlet)", file.display()),
    };
    let init = ground.init(subject);
    let data_dir = &planned.installation.data_dir;
    let text = text(subject, &Making { form, parts: &parts, data_dir, init, selinux: &selinux });
    let diff: String = text.lines().map(|line| format!("+{line}\n")).collect();
    let what = format!("{how}: {}, started with the machine", plan::made(subject));
    all.push(
        Change::new(Op::Prepare, what).with_diff(format!("--- /dev/null\n+++ {}\n{diff}", file.display())),
    );
    all.extend(spec::binds(subject, &parts).iter().map(plan::mount));
    all.extend(planned.environment(subject));
    all.extend(selinux.shown().map(|text| Change::new(Op::Prepare, text)));
    all.push(Change::new(
        Op::Apply,
        format!(
            "write {}, start {unit}, and wait up to {} until Connect of this host's version answers at {}",
            handed_over(subject).display(),
            subject.settings.start_timeout,
            subject.address()
        ),
    ));
    all.push(plan::way_back(subject));
    Ok(all)
}
