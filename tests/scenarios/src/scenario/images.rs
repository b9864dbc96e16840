//! The image: chosen by version, out of a file, built on the machine.

use super::{Scenario, each_with_all, one_with_all};
use crate::ensure;
use crate::lab::{Lab, Runbook, Tried};
use serde_json::Value;

pub(super) const ALL: &[Scenario] = &[
    one_with_all(
        "of both families the right image is chosen, and a registry at fault is told by its fault",
        families,
    ),
    one_with_all(
        "content that will not find its interpreter is named, and an image behind a login is pulled with the login that docker has",
        behind_a_login,
    ),
    one_with_all("an image out of a file moves the server, and one with another digest is refused", archive),
    each_with_all("an image is built and scanned while the server serves, then moved to", built),
    each_with_all(
        "podman builds an image of a bakery while the server serves, then it is moved to",
        built_by_podman,
    ),
    one_with_all(
        "the programs of an image without labels are asked what is in it, then it is moved to",
        without_labels,
    ),
];

const FAMILIES: &str = include_str!("../guest/families.sh");
const LOGIN: &str = include_str!("../guest/login.sh");

/// Versions, distributions and the images that are taken for them.
const CHOSEN: [(&str, &str, &str); 14] = [
    ("1.9.0.1", "", "rstudio/rstudio-connect:1.9.0.1"),
    ("2021.08.0", "", "rstudio/rstudio-connect:2021.08.0"),
    ("2022.08.0", "", "rstudio/rstudio-connect:2022.08.0"),
    ("2022.09.0", "", "rstudio/rstudio-connect:bionic-2022.09.0"),
    ("2023.06.0", "", "rstudio/rstudio-connect:bionic-2023.06.0"),
    ("2023.07.0", "", "rstudio/rstudio-connect:jammy-2023.07.0"),
    ("2024.12.0", "", "rstudio/rstudio-connect:ubuntu2204-2024.12.0"),
    ("2025.05.0", "", "posit/connect:2025.05.0-ubuntu-22.04-std"),
    ("2025.06.0", "", "rstudio/rstudio-connect:ubuntu2204-2025.06.0"),
    ("2025.12.1", "", "posit/connect:2025.12.1-ubuntu-24.04-std"),
    ("2025.12.1", "ubuntu-22.04", "posit/connect:2025.12.1-ubuntu-22.04-std"),
    ("match-source", "", "posit/connect:2026.03.1-ubuntu-24.04-std"),
    ("2026.06.1", "", "rstudio/rstudio-connect:ubuntu2204-2026.06.1"),
    ("2026.08.0", "", "posit/connect:2026.08.0-ubuntu-24.04-std"),
];

/// Versions that neither family has, and the nearest that there is.
const MISSING: [(&str, &str); 3] = [
    ("2020.01.0", "rstudio/rstudio-connect:2021.08.0"),
    ("2025.09.0", "posit/connect:2025.09.1-ubuntu-22.04-std"),
    ("2027.01.0", "posit/connect:2026.08.0-ubuntu-24.04-std"),
];

/// Registries at fault, by port.
const FAULTS: [(u16, &str, &str); 4] = [
    (5401, "registry-login", "authentication required"),
    (5429, "registry-limit", "wait 60 s"),
    (5500, "registry-broken", "disk full"),
    (5499, "registry-unreachable", "refused"),
];

fn with(image: String) -> Runbook {
    Runbook { image, ..Runbook::default() }
}

/// The finding of that key that check tells.
fn finding(lab: &Lab, image: String, key: &str) -> Tried<String> {
    lab.write_runbook(&with(image.clone()).text())?;
    let check = lab.machine.run("connect-migrator check prod --json")?;
    let steps: Value = serde_json::from_str(&check.stdout)?;
    let mut findings = steps
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|step| step.get("findings").and_then(Value::as_array).into_iter().flatten());
    let found = findings.find(|finding| finding.get("key").and_then(Value::as_str) == Some(key));
    let text = found.and_then(|finding| finding.get("text")).and_then(Value::as_str);
    text.map(str::to_owned).ok_or_else(|| format!("no `{key}` for {image}:\n{}", check.stdout).into())
}

fn families(lab: &Lab) -> Tried {
    lab.machine.write_file("/root/lab/families.sh", FAMILIES)?;
    lab.must("bash /root/lab/families.sh && docker image prune -af >/dev/null")?;
    let image = |version: &str, os: &str, registry: &str| {
        let os = if os.is_empty() { String::new() } else { format!(", os = \"{os}\"") };
        format!("{{ version = \"{version}\"{os}, registries = [\"{registry}\"] }}")
    };
    for (version, os, chosen) in CHOSEN {
        let text = finding(lab, image(version, os, "127.0.0.1:5000"), "image")?;
        ensure!(text.contains(&format!("127.0.0.1:5000/{chosen} ")), "for {version} {os}: {text}");
    }
    for (version, near) in MISSING {
        let text = finding(lab, image(version, "", "127.0.0.1:5000"), "image-missing")?;
        let told = text.contains("does not exist") && text.contains(&format!("exist: 127.0.0.1:5000/{near}"));
        ensure!(told, "for {version}: {text}");
    }
    for (port, key, why) in FAULTS {
        let text = finding(lab, image("match-source", "", &format!("127.0.0.1:{port}")), key)?;
        ensure!(text.contains(why), "of port {port}: {text}");
    }
    Ok(())
}

fn behind_a_login(lab: &Lab) -> Tried {
    lab.machine.write_file("/root/lab/login.sh", LOGIN)?;
    lab.must("bash /root/lab/login.sh")?;
    let image = "127.0.0.1:5402/posit/connect:2026.03.1-ubuntu-24.04-std";
    let text = finding(lab, image.to_owned(), "registry-login")?;
    ensure!(text.contains("127.0.0.1:5402"), "{text}");

    // With a login of the runbook, whose password is a credential.
    lab.must("install -m 600 /root/lab/keys/registry /etc/connect-migrator/credentials/registry-password")?;
    let login = r#", login = { registry = "127.0.0.1:5402", user = "lab", password = { credential = "registry-password" } }"#;
    lab.write_runbook(&with(image.to_owned()).container(login).text())?;
    lab.must("connect-migrator check prod")?;
    lab.must("rm /etc/connect-migrator/credentials/registry-password")?;

    // With the one that docker has.
    lab.must("docker login -u lab --password-stdin 127.0.0.1:5402 </root/lab/keys/registry 2>&1")?;
    let other = "127.0.0.1:5402/posit/connect:other-python";
    let text = finding(lab, other.to_owned(), "content-interpreters")?;
    let items = lab.must(
        "curl -fs -H @/root/lab/keys/admin.header http://connect.example.com/__api__/v1/content |
         jq -r '.[] | select(.py_version != null) | .title'",
    )?;
    ensure!(!items.trim().is_empty(), "the lab has no content that uses Python");
    for item in items.lines() {
        ensure!(text.contains(&format!("\n  {item} of ")), "{item} is not named:\n{text}");
    }
    let lost = format!("; {} of ", items.lines().count());
    ensure!(text.contains(&lost) && text.contains("Python 3.12.13"), "not only these:\n{text}");

    finding(lab, image.to_owned(), "image")?;
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_standing("committed")?;
    lab.assert_moved()
}

fn archive(lab: &Lab) -> Tried {
    lab.must(
        "docker pull -q 127.0.0.1:5000/posit/connect:2026.03.1 && docker save -o /srv/connect.tar 127.0.0.1:5000/posit/connect:2026.03.1
         docker image prune -af >/dev/null",
    )?;
    let wrong = format!("{{ archive = \"/srv/connect.tar\", digest = \"sha256:{}\" }}", "0".repeat(64));
    let text = finding(lab, wrong, "archive-digest")?;
    ensure!(text.contains("the runbook says sha256:0000"), "{text}");
    let digest = lab.must("sha256sum /srv/connect.tar | cut -c1-64")?;
    let image = format!("{{ archive = \"/srv/connect.tar\", digest = \"sha256:{}\" }}", digest.trim());
    lab.write_runbook(&with(image).text())?;
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_standing("committed")?;
    lab.assert_moved()
}

/// An image of one's own, and what looks at it.
const OWN: &str = r#"mkdir /root/image && cd /root/image
        printf 'FROM 127.0.0.1:5000/posit/connect:2026.03.1\nCOPY --chmod=0755 note /opt/note\nRUN cat /opt/note\n' >Containerfile
        echo own >note; echo left out >secret; echo secret >.dockerignore
        printf '#!/bin/sh\necho "looked at $1"\n' >/usr/local/bin/scanner && chmod 755 /usr/local/bin/scanner"#;

/// Built by the step, looked at, and moved to.
fn builds(lab: &Lab, made_of: &str, runbook: Runbook) -> Tried {
    lab.must(made_of)?;
    // With no more than Connect needs, also where there is AppArmor.
    let settings = r#", scan = ["/usr/local/bin/scanner", "{image}"], privileges = "sys-admin""#;
    lab.write_runbook(&runbook.container(settings).text())?;
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_standing("committed")?;
    lab.assert_moved()
}

/// The folders of a bakery, around the same Containerfile.
const BAKERY: &str = r#"cd /root/image && mkdir -p connect/2026.03.1 && mv Containerfile connect/2026.03.1/Containerfile.ubuntu2404.std
        cat >bakery.yaml <<'EOF'
repository: {url: github.com/example/images, vendor: Example}
images:
  - name: connect
    variants:
      - {name: Standard, extension: std, tagDisplayName: std, primary: true}
      - {name: Minimal, extension: min, tagDisplayName: min}
    versions:
      - name: 2026.03.1
        os: [{name: Ubuntu 24.04, primary: true}]
        dependencies: [{dependency: R, version: 4.5.2}, {dependency: python, version: 3.12.13}]
EOF"#;

fn built_by_podman(lab: &Lab) -> Tried {
    lab.must(super::podman::GROUND)?;
    let recipe = r#"{ build = { bakery = "/root/image/bakery.yaml", version = "match-source", variant = "std", os = "ubuntu-24.04" } }"#;
    builds(lab, &format!("{OWN}\n{BAKERY}"), with(recipe.into()).podman())?;
    let privileged = lab.must("podman inspect --format '{{.HostConfig.Privileged}}' connect-prod")?;
    ensure!(privileged.trim() == "false", "the container has all privileges");
    let label = lab
        .must("podman inspect --format '{{index .Config.Labels \"co.posit.image.version\"}}' connect-prod")?;
    ensure!(label.trim() == "2026.03.1", "the label of the version is {label}");
    lab.must("podman exec connect-prod cat /opt/note | grep -qx own")?;
    let report = lab.must("cat /var/lib/connect-migrator/prod/report.json")?;
    ensure!(report.contains("looked at "), "the report does not have the scan:\n{report}");
    Ok(())
}

fn built(lab: &Lab) -> Tried {
    let recipe = r#"{ containerfile = "/root/image/Containerfile", context = "/root/image" }"#;
    builds(lab, OWN, with(recipe.into()))?;
    lab.must("docker exec connect-prod cat /opt/note | grep -qx own")?;
    let privileged = lab.must("docker inspect --format '{{.HostConfig.Privileged}}' connect-prod")?;
    ensure!(privileged.trim() == "false", "the container has all privileges");
    let pinned = lab.must("docker inspect --format '{{.Config.Image}}' connect-prod")?;
    ensure!(pinned.starts_with("sha256:"), "the container's image is {pinned}");
    let report = lab.must("cat /var/lib/connect-migrator/prod/report.json")?;
    ensure!(report.contains("looked at sha256:"), "the report does not have the scan:\n{report}");
    Ok(())
}

/// The image as an import makes it: the same files, and a tag that tells nothing.
const SILENT: &str = r#"set -e
theirs=127.0.0.1:5000/posit/connect:2026.03.1
docker pull -q $theirs
command=$(docker inspect --format '{{json .Config.Cmd}}' $theirs)
entrypoint=$(docker inspect --format '{{json .Config.Entrypoint}}' $theirs)
id=$(docker create $theirs)
docker export $id | docker import --change "CMD $command" --change "ENTRYPOINT ${entrypoint/null/[]}" --change 'EXPOSE 3939' \
        - 127.0.0.1:5000/own/connect:nightly
docker rm $id
docker push -q 127.0.0.1:5000/own/connect:nightly
docker image prune -af >/dev/null"#;

fn without_labels(lab: &Lab) -> Tried {
    let reference = "127.0.0.1:5000/own/connect:nightly";
    lab.must(SILENT)?;
    // Before it is on this host nobody can tell.
    let text = finding(lab, reference.to_owned(), "image-inside")?;
    ensure!(text.contains("no labels"), "{text}");
    lab.must(&format!("docker pull -q {reference}"))?;
    let text = finding(lab, reference.to_owned(), "image")?;
    ensure!(text.contains("its programs were asked"), "{text}");
    let text = finding(lab, reference.to_owned(), "image-version")?;
    ensure!(text.contains("has version 2026.03.1"), "{text}");
    let left = lab.must("docker ps -aq")?;
    ensure!(left.is_empty(), "the container that was asked is left: {left}");
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_standing("committed")?;
    lab.assert_moved()
}
