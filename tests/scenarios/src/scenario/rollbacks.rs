//! What fails on the way is put back by itself, and everything is as before.

use super::{Scenario, one_or_each, one_with_all};
use crate::ensure;
use crate::lab::{Lab, Runbook, Tried};
use serde_json::Value;

pub(super) const ALL: &[Scenario] = &[
    one_with_all("a layer of the image is gone from the registry: rolled back before the window", pull),
    one_with_all("the container lacks privileges: rolled back", privileges),
    one_with_all("the container never gets healthy: rolled back", never_healthy),
    one_with_all("the container reports another version: rolled back", other_version),
    one_with_all("nginx -t fails inside the window: rolled back", nginx),
    one_with_all(
        "the old server does not start again: users keep the page, nothing is left to a reboot, and the operator ends it",
        source_does_not_start,
    ),
    one_with_all("a plugin crashes in the window: rolled back", crash),
    one_or_each("docker dies in the window: rolled back once it is there again", docker_dies),
];

/// Runs the runbook and asserts that it was rolled back by itself because of this, and nothing was left.
fn rolls_back(lab: &Lab, runbook: &Runbook, step: &str, why: &str) -> Tried<Value> {
    lab.write_runbook(&runbook.text())?;
    ensure!(lab.start_migration()?, "it did not start");
    rolled_back(lab, step, why)
}

fn rolled_back(lab: &Lab, step: &str, why: &str) -> Tried<Value> {
    let status = lab.wait_standing("rolled-back")?;
    let cause =
        |key: &str| status.pointer(&format!("/cause/{key}")).and_then(Value::as_str).unwrap_or_default();
    ensure!(
        cause("step") == step && cause("why").contains(why),
        "rolled back because of `{}`: {}; expected `{step}` and something with `{why}`",
        cause("step"),
        cause("why")
    );
    ensure!(!cause("remedy").is_empty(), "no remedy is told for: {}", cause("why"));
    let left = status.get("left").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(left == 0, "something was left: {status}");
    lab.assert_as_before()?;
    Ok(status)
}

fn pull(lab: &Lab) -> Tried {
    // The registry still answers with the manifest.
    lab.must(
        r#"set -e
        url=http://127.0.0.1:5000/v2/posit/connect/manifests/broken-layer
        layer=$(curl -fsS -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' $url | jq -r '.layers[-1].digest')
        layer=${layer#sha256:}
        rm -r /var/lib/docker-registry/docker/registry/v2/blobs/sha256/${layer:0:2}/$layer
        curl -fsS -o /dev/null $url"#,
    )?;
    let status = rolls_back(lab, &Runbook::tag("broken-layer"), "container", "pull")?;
    let windows = status.get("windows").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(windows == 0, "users were not served for a while: {status}");
    Ok(())
}

fn privileges(lab: &Lab) -> Tried {
    let runbook = Runbook::default().container(r#", privileges = "none""#);
    rolls_back(lab, &runbook, "container", "Unable to launch a sandbox").map(drop)
}

fn never_healthy(lab: &Lab) -> Tried {
    let runbook = Runbook::tag("never-healthy").container(r#", start-timeout = "15s""#);
    rolls_back(lab, &runbook, "container", "does not answer").map(drop)
}

fn other_version(lab: &Lab) -> Tried {
    rolls_back(lab, &Runbook::tag("reports-other"), "container", "2026.02.1").map(drop)
}

fn nginx(lab: &Lab) -> Tried {
    // An administrator breaks the configuration at the worst time, and notices when the route fails. Were it left broken, nginx
    // could not be reloaded, and the rollback would end with that told.
    lab.must(
        "systemd-run --quiet --unit=lab-sabotage bash -ec '/root/lab/state-watcher await apply container
         echo \"listen nowhere;\" >/etc/nginx/conf.d/zz-not-ours.conf
         /root/lab/state-watcher await rollback-decided; rm /etc/nginx/conf.d/zz-not-ours.conf'",
    )?;
    lab.write_runbook(&Runbook::default().text())?;
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_standing("rolled-back")?;
    rolled_back(lab, "route", "nginx -t").map(drop)
}

fn crash(lab: &Lab) -> Tried {
    let plugins = "/usr/local/lib/connect-migrator/plugins";
    lab.machine.copy_to(&lab.artifacts.hostile, &format!("{plugins}/hostile.so"))?;
    lab.must(&format!("chmod -R go-w /usr/local/lib/connect-migrator && chown -R root:root {plugins} && ls -ld {plugins}/.. {plugins}"))?;
    let after_container =
        "\n[[step]]\nid = \"crash\"\nuses = \"hostile\"\nwith = { misdeed = \"abort-after-undo\" }\n"
            .to_owned();
    let runbook = Runbook { after_container, ..Runbook::default() };
    rolls_back(lab, &runbook, "crash", "SIGABRT").map(drop)
}

fn source_does_not_start(lab: &Lab) -> Tried {
    lab.write_runbook(&Runbook::that_waits().text())?;
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_soak()?;
    let program = "/opt/rstudio-connect/bin/connect";
    lab.must(&format!("chmod a-x {program}"))?;
    lab.must("connect-migrator rollback prod --yes --no-wait")?;
    let status = lab.wait_standing("waiting")?;
    let why = status.get("waits").and_then(Value::as_str).unwrap_or_default();
    ensure!(
        why.contains("`stop` (apply)") && why.contains("`route` still sends users away"),
        "it waits for the operator with: {why}"
    );
    lab.wait_for("the daemon to end", "! systemctl is-active -q connect-migrator@prod")?;
    let armed = lab.ask("systemctl is-enabled connect-migrator@prod")?;
    ensure!(armed == "disabled", "what waits for an operator would be resumed by a reboot: {armed}");
    let page = lab.ask("curl -s -m 5 -o /dev/null -w '%{http_code}' http://connect.example.com/")?;
    ensure!(page == "503", "users see {page} and not the maintenance page");

    lab.must(&format!("chmod a+x {program}"))?;
    lab.must("connect-migrator rollback prod --yes")?;
    lab.wait_standing("rolled-back")?;
    lab.assert_as_before()
}

fn docker_dies(lab: &Lab) -> Tried {
    // Connect of this image takes 20 s to start. It dies in that, together with the engine; before it the container runs already, and an
    // engine that died is only waited for. Until Connect starts, a shell is there whose arguments name it too.
    lab.must(
        "systemd-run --quiet --unit=lab-sabotage bash -ec '/root/lab/state-watcher await apply container
         until pgrep -f \"^/opt/rstudio-connect/bin/connect\"; do sleep 0.1; done
         kill -9 $(pidof dockerd) $(pidof containerd)'",
    )?;
    lab.write_runbook(&Runbook::tag("slow").text())?;
    ensure!(lab.start_migration()?, "it did not start");
    let status = lab.wait_standing("rolled-back")?;
    let step = status.pointer("/cause/step").and_then(Value::as_str).unwrap_or_default();
    ensure!(step == "container", "rolled back because of {step:?}: {status}");
    println!("     {}", status.pointer("/cause/why").and_then(Value::as_str).unwrap_or_default());
    lab.assert_as_before()
}
