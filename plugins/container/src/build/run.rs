//! Building, by the engine's own API. Not through bollard: it cannot read what docker's newer builder (BuildKit) tells, and the older one
//! does not know what Posit's Containerfiles use (`COPY --chmod`).

use crate::build::context::{self, Survey};
use crate::build::recipe::Recipe;
use crate::build::told::Told;
use crate::engine::{Credentials, Engine, EngineError, Pulled};
use crate::kind::Kind;
use crate::login::Logins;
use crate::undo::Undo;
use crate::world::{LABEL_PREFIX, Subject};
use bollard::models::ImageInspect;
use connect_migrator_images::registry::{platform, provide_cryptography, sha256};
use connect_migrator_sdk::{Context, Progress, StepError};
use std::collections::BTreeMap;

/// How many pieces of the context wait for the engine.
const PIECES_WAITING: usize = 8;
/// No line that the engine tells is longer.
const LINE_MAX_BYTES: usize = 4 * 1024 * 1024;
/// How much of the engine's refusal is read.
const REFUSAL_MAX_BYTES: usize = 16 * 1024;
/// How many digits of its recipe's digest are in an image's tag.
const TAG_DIGITS: usize = 12;

/// Builds unless this migration already did. Answers the image's tag, what the engine knows about it, and whether it was built.
///
/// # Errors
/// When a base image cannot be had, or the build fails.
pub async fn build(
    subject: &Subject<'_>,
    cx: &Context,
    engine: &Engine,
    recipe: &Recipe,
    logins: &Logins,
) -> Result<(String, ImageInspect, bool), StepError> {
    let tag = tag(subject, recipe);
    let migration = format!("{LABEL_PREFIX}migration");
    if let Some(about) = engine.image(&tag).await.map_err(EngineError::step)? {
        let labels = about.config.as_ref().and_then(|config| config.labels.as_ref());
        if labels.and_then(|labels| labels.get(&migration)) == Some(&subject.migration) {
            return Ok((tag, about, false));
        }
    }
    let doing = format!("build {}", recipe.what);
    let limit = subject.settings.build_timeout;
    cx.record_undo(&Undo::Built { reference: tag.clone() })?;
    let all = async {
        // BuildKit asks the one who builds for logins, and nobody answers: what is here already it does not fetch.
        for base in &recipe.bases {
            have_base(cx, engine, base, logins.of_reference(base).as_ref()).await?;
        }
        cx.info(format!("building {} as {tag}", recipe.what));
        send(subject, cx, engine, recipe, &tag).await
    };
    tokio::select! {
        () = cx.cancelled() => return Err(StepError::cancelled(doing)),
        done = tokio::time::timeout(limit.duration(), all) => match done {
            Err(_) => {
                return Err(StepError::new(doing)
                    .because(format!("it took more than {limit}"))
                    .remedy("see whether the build hangs (a download?), or raise `build-timeout`"));
            }
            Ok(done) => done?,
        }
    }
    let about = engine.image(&tag).await.map_err(EngineError::step)?.ok_or_else(|| {
        StepError::new(doing)
            .because(format!("{} says that it did, but does not have {tag}", engine.kind))
            .remedy(engine.kind.journal())
    })?;
    Ok((tag, about, true))
}

/// The tag under which the image is kept: another recipe has another one.
#[must_use]
pub fn tag(subject: &Subject<'_>, recipe: &Recipe) -> String {
    let text = format!("{:?}", (&recipe.containerfile, &recipe.context, &recipe.target, &recipe.args));
    let digest = sha256(text.as_bytes());
    let digits: String = digest.trim_start_matches("sha256:").chars().take(TAG_DIGITS).collect();
    format!("localhost/connect-migrator/{}:{digits}", subject.names.container.to_lowercase())
}

async fn have_base(
    cx: &Context,
    engine: &Engine,
    base: &str,
    login: Option<&Credentials>,
) -> Result<(), StepError> {
    if engine.image(base).await.map_err(EngineError::step)?.is_some() {
        return Ok(());
    }
    // Without a tag all of a repository would be pulled.
    let named = crate::reference::split(base).1.is_some();
    let reference = if named { base.to_owned() } else { format!("{base}:latest") };
    cx.info(format!("pulling {reference}, which the image begins from"));
    let tell = |Pulled { done, total }: Pulled| {
        let doing = format!("pulling {reference}");
        cx.progress(&Progress { doing, done: Some(done), total: Some(total), unit: Some("bytes".into()) });
    };
    engine.pull(&reference, login, tell).await.map_err(|error| {
        error.step().remedy(format!(
            "see that this host reaches the registry of {reference}, or load it with `{} load`",
            engine.kind
        ))
    })
}

async fn send(
    subject: &Subject<'_>,
    cx: &Context,
    engine: &Engine,
    recipe: &Recipe,
    tag: &str,
) -> Result<(), StepError> {
    let failed = |why: String| {
        StepError::new(format!("build {}", recipe.what))
            .because(why)
            .remedy("correct what it stumbles over; the same is shown by building it by hand")
    };
    let (looked, most) = (recipe.clone(), subject.settings.build_context_max_mib.saturating_mul(1024 * 1024));
    let survey: Survey = tokio::task::spawn_blocking(move || context::survey(&looked, most))
        .await
        .map_err(|error| failed(error.to_string()))?
        .map_err(failed)?;
    let (to, from) = tokio::sync::mpsc::channel(PIECES_WAITING);
    let packed = recipe.clone();
    let packing = tokio::task::spawn_blocking(move || {
        let end = to.clone();
        let done = context::pack(&packed, &survey, to);
        if let Err(error) = &done {
            let error = std::io::Error::new(error.kind(), error.to_string());
            // Nobody may be listening any more.
            let _ = end.blocking_send(Err(error));
        }
        done
    });
    let pieces = futures_util::stream::unfold(from, |mut from| async move {
        let piece = from.recv().await?;
        Some((piece, from))
    });

    provide_cryptography();
    let client = reqwest::Client::builder()
        .unix_socket(subject.socket().to_owned())
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let address =
        reqwest::Url::parse_with_params("http://engine/build", query(subject, engine.kind, recipe, tag)?)
            .map_err(|error| failed(error.to_string()))?;
    let request = client
        .post(address)
        .header("content-type", "application/x-tar")
        .body(reqwest::Body::wrap_stream(pieces));
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) => {
            // What could not be read is the reason more often than the engine.
            let why = match packing.await {
                Ok(Err(packing)) if packing.kind() != std::io::ErrorKind::BrokenPipe => packing.to_string(),
                _ => error.to_string(),
            };
            return Err(failed(why));
        }
    };
    let status = response.status();
    let mut told = Told::default();
    let mut line = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(error.to_string()))? {
        for byte in chunk {
            if byte != b'\n' {
                line.push(byte);
                if line.len() > LINE_MAX_BYTES {
                    return Err(failed("the engine tells a line that does not end".into()));
                }
                continue;
            }
            told.take(&line);
            line.clear();
            let (done, total, doing) = told.progress();
            let doing = format!("building: {doing}");
            cx.progress(&Progress {
                doing,
                done: Some(done),
                total: Some(total),
                unit: Some("steps".into()),
            });
        }
    }
    told.take(&line);
    if !status.is_success() {
        let said: String = String::from_utf8_lossy(&line).chars().take(REFUSAL_MAX_BYTES).collect();
        let message = serde_json::from_str::<serde_json::Value>(&said).ok();
        let message = message.and_then(|m| m.get("message")?.as_str().map(str::to_owned)).unwrap_or(said);
        return Err(failed(format!("{} refused it: {} (status {status})", engine.kind, message.trim())));
    }
    match &told.error {
        None => Ok(()),
        Some(error) => {
            let lines = told.last_lines();
            let said = if lines.is_empty() { String::new() } else { format!("; its last output:\n{lines}") };
            Err(failed(format!("{error}{said}")))
        }
    }
}

fn query(
    subject: &Subject<'_>,
    kind: Kind,
    recipe: &Recipe,
    tag: &str,
) -> Result<Vec<(&'static str, String)>, StepError> {
    let json = |map: &BTreeMap<String, String>| {
        serde_json::to_string(map).map_err(|error| StepError::new("ask for the build").because(error))
    };
    let mut labels = recipe.labels.clone();
    for (key, value) in [
        ("instance", subject.instance.clone()),
        ("migration", subject.migration.clone()),
        ("built-from", recipe.containerfile.display().to_string()),
    ] {
        labels.insert(format!("{LABEL_PREFIX}{key}"), value);
    }
    let mut all = vec![
        ("t", tag.to_owned()),
        ("dockerfile", context::inside(recipe)),
        ("labels", json(&labels)?),
        ("buildargs", json(&recipe.args)?),
        ("rm", "1".into()),
        ("forcerm", "1".into()),
        ("platform", platform()),
    ];
    if kind == Kind::Docker {
        // BuildKit.
        all.push(("version", "2".into()));
    }
    if let Some(target) = &recipe.target {
        all.push(("target", target.clone()));
    }
    Ok(all)
}
