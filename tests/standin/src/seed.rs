//! Users, API keys and content for tests. The same call gives the same data: GUIDs and bundles come from numbers.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::caches::{DataDir, Owner};
use crate::content::Content;
use crate::failure::Failure;
use crate::runtimes::{Language, Runtimes, Version};
use crate::secret::hex;
use crate::settings::{Provider, Settings};
use crate::startup;
use crate::store::Store;
use crate::users;

/// R of the seeded content when none is installed.
pub const DEFAULT_R: Version = Version(4, 5, 2);
/// Python of the seeded content when none is installed.
pub const DEFAULT_PYTHON: Version = Version(3, 12, 4);
/// Quarto of the seeded content when none is installed.
pub const DEFAULT_QUARTO: Version = Version(1, 8, 24);
/// Python that the images do not have.
pub const OLD_PYTHON: Version = Version(3, 9, 5);
/// Visits of a seeded history.
const VISITS_SEEDED: u32 = 200;
/// Size of a seeded bundle.
const BUNDLE_BYTES: usize = 16 * 1024;

/// What to seed.
#[derive(Debug, Clone, Default)]
pub struct Seed {
    /// Content items, the unpublished one among them.
    pub items: u32,
    /// Further items that ask for [`OLD_PYTHON`].
    pub broken_python: u32,
    /// API key of an administrator.
    pub admin_key: Option<String>,
    /// API key of a publisher.
    pub publisher_key: Option<String>,
    /// API key of the administrator that is no longer valid.
    pub expired_key: Option<String>,
    /// Only items that a rebuild has to do with: published, and not static.
    pub buildable_only: bool,
    /// Whether to write bundles, unpacked content and caches.
    pub files: bool,
    /// Versions that content was deployed with; by default the newest installed.
    pub versions: Versions,
}

/// Versions that content was deployed with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Versions {
    /// R
    pub r: Option<Version>,
    /// Python
    pub python: Option<Version>,
    /// Quarto
    pub quarto: Option<Version>,
}

impl Versions {
    /// The newest installed of each; of Python the newest that is not [`OLD_PYTHON`].
    #[must_use]
    pub fn installed(runtimes: &Runtimes) -> Self {
        let newest = |l| runtimes.versions(l).iter().copied().filter(|v| *v != OLD_PYTHON).max();
        Versions {
            r: newest(Language::R),
            python: newest(Language::Python),
            quarto: newest(Language::Quarto),
        }
    }
}

/// The GUID of the n-th thing of a kind.
#[must_use]
pub fn guid(kind: &str, n: u32) -> String {
    let digest = hex(&Sha256::digest(format!("{kind} {n}")));
    let part = |from: usize, to: usize| digest.get(from..to).unwrap_or_default();
    format!("{}-{}-4{}-a{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}

const KINDS: [(&str, &str); 12] = [
    ("static", "Employee handbook"),
    ("shiny", "Sales explorer"),
    ("rmd-static", "Quarterly report"),
    ("python-dash", "Fleet dashboard"),
    ("python-fastapi", "Pricing API"),
    ("quarto-static", "Lab notebook"),
    ("shiny", "Draft that was never published"),
    ("api", "Forecast service"),
    ("python-streamlit", "Survey viewer"),
    ("jupyter-static", "Churn analysis"),
    ("python-shiny", "Capacity planner"),
    ("rmd-shiny", "Interactive tutorial"),
];

/// Place in the list of the item that was never published.
const UNPUBLISHED: usize = 6;

/// Kinds of a seed of buildable items only.
const BUILDABLE: [usize; 4] = [1, 3, 4, 8];

fn item(n: u32, seed: &Seed) -> Content {
    let versions = seed.versions;
    let place = n as usize - 1;
    let place = if seed.buildable_only {
        BUILDABLE.get(place % BUILDABLE.len()).copied().unwrap_or(1)
    } else {
        place % KINDS.len()
    };
    let (mode, title) = KINDS.get(place).copied().unwrap_or(("static", "Content"));
    let published = place != UNPUBLISHED;
    let r = versions.r.unwrap_or(DEFAULT_R);
    let python = versions.python.unwrap_or(DEFAULT_PYTHON);
    let quarto = versions.quarto.unwrap_or(DEFAULT_QUARTO);
    let uses_r = matches!(mode, "shiny" | "rmd-static" | "api" | "rmd-shiny" | "quarto-static");
    let uses_python = mode.starts_with("python") || mode.starts_with("jupyter");
    let version = |used: bool, v: Version| (used && published).then(|| v.to_string());
    let title = if n as usize > KINDS.len() { format!("{title} {n}") } else { title.to_owned() };
    Content {
        id: i64::from(n),
        guid: guid("content", n),
        name: format!("item-{n}"),
        title,
        description: String::new(),
        app_mode: mode.to_owned(),
        category: String::new(),
        bundle_id: published.then(|| (1000 + n).to_string()),
        r_version: version(uses_r, r),
        py_version: version(uses_python, python),
        quarto_version: version(mode == "quarto-static", quarto),
        owner_guid: guid("user", if n.is_multiple_of(3) { 2 } else { 1 }),
        created_time: "2024-02-01T08:00:00Z".to_owned(),
        last_deployed_time: deployed(n),
    }
}

/// Distinct times, not in the order of the ids.
fn deployed(n: u32) -> String {
    let shuffled = i64::from(n.wrapping_mul(7919) % 10_007);
    let base = jiff::Timestamp::from_second(1_735_700_000).unwrap_or_default();
    jiff::Timestamp::from_second(base.as_second() + shuffled * 3600 + i64::from(n))
        .unwrap_or(base)
        .to_string()
}

/// Fills the database and DataDir. What is there stays: doing it twice is doing it once.
///
/// # Errors
/// The database's and the file system's.
pub async fn plant(
    seed: &Seed,
    store: &Store,
    settings: &Settings,
    distribution: &str,
) -> Result<Vec<Content>, Failure> {
    let (admin, publisher, viewer) = (guid("user", 1), guid("user", 2), guid("user", 3));
    users::add_user(store, &admin, "admin", "administrator").await?;
    users::add_user(store, &publisher, "publisher", "publisher").await?;
    users::add_user(store, &viewer, "viewer", "viewer").await?;
    let year_ago = users::unix_now() - 31_536_000;
    let keys = [
        (&admin, &seed.admin_key, None),
        (&publisher, &seed.publisher_key, None),
        (&admin, &seed.expired_key, Some(year_ago)),
    ];
    for (user, key, expires) in keys {
        if let Some(key) = key {
            users::add_key(store, user, key, expires).await?;
        }
    }
    let mut items: Vec<Content> = (1..=seed.items).map(|n| item(n, seed)).collect();
    for n in 1..=seed.broken_python {
        let n = seed.items + n;
        let mut content = item(n, seed);
        content.app_mode = "python-api".to_owned();
        content.title = format!("Legacy service {n}");
        content.bundle_id = Some((1000 + n).to_string());
        (content.r_version, content.quarto_version) = (None, None);
        content.py_version = Some(OLD_PYTHON.to_string());
        items.push(content);
    }
    let owner = if nix::unistd::Uid::effective().is_root() {
        startup::run_as_user(&settings.run_as).ok()
    } else {
        None
    };
    if seed.files {
        std::fs::create_dir_all(&settings.data_dir).map_err(Failure::file("create", &settings.data_dir))?;
    }
    let _ = store.execute("BEGIN", &[]).await?;
    for content in &items {
        content.insert(store).await?;
        if let Some(bundle) = &content.bundle_id {
            let bytes = if seed.files { bundle_bytes(bundle) } else { Vec::new() };
            let row = [
                bundle.as_str().into(),
                content.guid.as_str().into(),
                hex(&Sha256::digest(&bytes)).into(),
                i64::try_from(bytes.len()).unwrap_or(i64::MAX).into(),
                content.last_deployed_time.as_str().into(),
            ];
            store.insert("bundles", &row).await?;
            if seed.files {
                files(&settings.data_dir, owner, content, bundle, &bytes, distribution)?;
            }
        }
    }
    let _ = store.execute("COMMIT", &[]).await?;
    if settings.provider == Provider::Sqlite && !seed.buildable_only {
        visits(settings, &items).await?;
    }
    Ok(items)
}

/// A little history of use, in the instrumentation database of SQLite.
async fn visits(settings: &Settings, items: &[Content]) -> Result<(), Failure> {
    let Some(store) = Store::open_visits_sqlite(settings, true).await? else { return Ok(()) };
    for n in 0..VISITS_SEEDED {
        let Some(content) = items.get(n as usize % items.len().max(1)) else { continue };
        let at = jiff::Timestamp::from_second(1_735_800_000 + i64::from(n) * 600).unwrap_or_default();
        let user = (n % 5 != 0).then(|| guid("user", 1 + n % 3));
        let path = (n % 2 == 0).then(|| format!("/page/{n}"));
        let row = [
            i64::from(n + 1).into(),
            content.guid.as_str().into(),
            user.into(),
            at.to_string().into(),
            path.into(),
        ];
        store.insert("visits", &row).await?;
    }
    Ok(())
}

fn bundle_bytes(bundle: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BUNDLE_BYTES);
    for n in 0.. {
        if bytes.len() >= BUNDLE_BYTES {
            break;
        }
        bytes.extend_from_slice(&Sha256::digest(format!("{bundle} {n}")));
    }
    bytes
}

fn files(
    data_dir: &Path,
    owner: Option<Owner>,
    content: &Content,
    bundle: &str,
    bytes: &[u8],
    distribution: &str,
) -> Result<(), Failure> {
    let data = DataDir::new(data_dir, owner);
    let (upload, app) = (data.bundle(content.id, bundle), data.app(content.id, bundle));
    for dir in upload.parent().into_iter().chain([app.as_path()]) {
        data.make_dir(dir)?;
    }
    data.write(&upload, bytes, 0o640)?;
    data.write(
        &app.join("manifest.json"),
        format!("{{\"appmode\": \"{}\"}}\n", content.app_mode).as_bytes(),
        0o640,
    )?;
    if content.app_mode == "static" {
        let page = format!(
            "<!doctype html>\n<title>{0}</title>\n<h1>{0}</h1>\n<p>{1}</p>\n",
            content.title, content.guid
        );
        data.write(&app.join("index.html"), page.as_bytes(), 0o640)?;
    }
    for (language, version) in content.needs() {
        data.build_environment(language, version, content.id, bundle, distribution)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deploy_times_are_distinct_and_guids_have_the_form_of_guids() {
        let times: std::collections::HashSet<_> = (1..=5000).map(deployed).collect();
        assert_eq!(times.len(), 5000);
        assert_eq!(guid("content", 1).len(), 36);
        assert_ne!(guid("content", 1), guid("content", 2));
    }
}
