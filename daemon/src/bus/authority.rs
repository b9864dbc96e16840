//! Who may do what: polkit decides, by actions that are split by what they risk (`packaging/polkit`).

use std::collections::HashMap;
use std::time::Duration;
use zbus::message::{Flags, Header};
use zbus::{Connection, Variant, fdo};

/// How long polkit may take to decide by itself.
const DECISION_TIMEOUT_SECS: u64 = 30;
/// How long a person may take to prove who they are, when the caller said that one can be asked.
const PERSON_TIMEOUT_SECS: u64 = 300;
/// `AllowUserInteraction` of polkit's `CheckAuthorizationFlags`.
const ALLOW_USER_INTERACTION: u32 = 1;

/// What may be allowed, by its risk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To read the whole report.
    View,
    /// To look at every prerequisite again.
    Check,
    /// To park the run, or to let it go on.
    Run,
    /// To take the way back.
    Rollback,
    /// To end the soak; there is no way back then.
    Commit,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 5] = [Action::View, Action::Check, Action::Run, Action::Rollback, Action::Commit];

    /// The action's name in polkit.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Action::View => "org.connect-migrator.view",
            Action::Check => "org.connect-migrator.check",
            Action::Run => "org.connect-migrator.run",
            Action::Rollback => "org.connect-migrator.rollback",
            Action::Commit => "org.connect-migrator.commit",
        }
    }
}

/// polkit's answer: authorized, would be if a person proved who they are, details.
type Answer = (bool, bool, HashMap<String, String>);

#[zbus::proxy(
    interface = "org.freedesktop.PolicyKit1.Authority",
    default_service = "org.freedesktop.PolicyKit1",
    default_path = "/org/freedesktop/PolicyKit1/Authority"
)]
trait Authority {
    fn check_authorization(
        &self,
        subject: &(&str, HashMap<&str, Variant<'_>>),
        action_id: &str,
        details: HashMap<&str, &str>,
        flags: u32,
        cancellation_id: &str,
    ) -> zbus::Result<Answer>;
}

/// Lets the sender of a message do something, or not. Root always may; anybody else if polkit says so, and not at all without it.
///
/// # Errors
/// `AccessDenied`, or `InteractiveAuthorizationRequired` when a password would do but none can be asked for.
pub async fn authorize(
    connection: &Connection,
    header: &Header<'_>,
    action: Action,
    instance: &str,
) -> fdo::Result<()> {
    let denied = |why: String| fdo::Error::AccessDenied(format!("not allowed to {}: {why}", action.id()));
    let sender = header.sender().ok_or_else(|| denied("the message has no sender".into()))?.clone();
    let unsure = |error: zbus::Error| denied(format!("could not find out who asks: {error}"));
    let bus = fdo::DBusProxy::new(connection).await.map_err(unsure)?;
    let user = within(DECISION_TIMEOUT_SECS, bus.get_connection_unix_user(sender.clone().into()))
        .await
        .ok_or_else(|| denied("the bus did not say in time who asks".into()))?
        .map_err(|error| denied(format!("could not find out who asks: {error}")))?;
    if user == 0 {
        return Ok(());
    }
    let interactive = header.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH);
    let subject = ("system-bus-name", HashMap::from([("name", Variant::from(sender.as_str()))]));
    let asked = async {
        AuthorityProxy::new(connection)
            .await?
            .check_authorization(
                &subject,
                action.id(),
                HashMap::from([("instance", instance)]),
                if interactive { ALLOW_USER_INTERACTION } else { 0 },
                "",
            )
            .await
    };
    let seconds = if interactive { PERSON_TIMEOUT_SECS } else { DECISION_TIMEOUT_SECS };
    match within(seconds, asked).await {
        Some(Ok((true, _, _))) => Ok(()),
        Some(Ok((false, true, _))) => Err(fdo::Error::InteractiveAuthorizationRequired(format!(
            "{} needs an administrator's password; call again with interactive authorization allowed, or as root",
            action.id()
        ))),
        Some(Ok((false, false, _))) => Err(denied("polkit does not allow it; ask as root".into())),
        Some(Err(error)) => Err(denied(format!("polkit could not be asked ({error}); ask as root"))),
        None => Err(denied(format!("polkit did not decide within {seconds} s; ask as root"))),
    }
}

async fn within<T>(seconds: u64, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_secs(seconds), future).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_stands_in_the_policy_and_no_other_does() {
        let policy = include_str!("../../../packaging/polkit/org.connect-migrator.policy");
        let mut declared: Vec<&str> = policy
            .split("<action id=\"")
            .skip(1)
            .filter_map(|rest| rest.split_once('"').map(|(id, _)| id))
            .collect();
        declared.sort_unstable();
        let mut known = Action::ALL.map(Action::id);
        known.sort_unstable();
        assert_eq!(declared, known);
    }
}
