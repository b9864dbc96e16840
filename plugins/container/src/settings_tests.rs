use super::*;
use serde_json::json;
use std::time::Duration;

fn read(value: serde_json::Value) -> Result<Settings, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

#[test]
fn an_image_alone_is_enough() {
    let settings = read(json!({ "image": "h:5000/posit/connect:2026.03.1" })).unwrap();
    let names = settings.names("prod", "vm.example.com").unwrap();
    assert_eq!((names.container.as_str(), names.hostname.as_str()), ("connect-prod", "vm-connect-prod"));
    assert_eq!(reach(&names.publish), "127.0.0.1:3940");
    assert_eq!(settings.stop_timeout.duration(), Duration::from_secs(120));
    assert_eq!(settings.privileges, Privileges::Privileged);
}

#[test]
fn an_image_may_be_a_table() {
    let settings = read(json!({ "image": { "reference": "a/b:1" } })).unwrap();
    assert_eq!(settings.image, Image::Reference("a/b:1".into()));
    let settings = read(json!({ "image": { "version": "match-source", "os": "ubuntu-24.04" } })).unwrap();
    assert!(matches!(settings.image, Image::Chosen(_)));
    let settings = read(json!({ "image": { "version": "2026.03.1" } })).unwrap();
    let Image::Chosen(chosen) = settings.image else { unreachable!() };
    assert_eq!(chosen.version, Some(VersionChoice::Exactly(Version::parse("2026.03.1").unwrap())));
}

#[test]
fn an_image_may_be_built() {
    for image in [
        json!({ "containerfile": "/c/Containerfile", "context": "/c" }),
        json!({ "build": { "containerfile": "/c/Containerfile", "context": "/c" } }),
    ] {
        let settings = read(json!({ "image": image })).unwrap();
        let Image::Build(BuildImage::File(file)) = settings.image else { unreachable!() };
        assert_eq!(file.containerfile, Path::new("/c/Containerfile"));
        assert_eq!(file.context.as_deref(), Some(Path::new("/c")));
    }
    let image = json!({ "build": { "bakery": "/b.yaml", "version": "match-source", "variant": "std", "os": "ubuntu-24.04" } });
    let settings = read(json!({ "image": image, "scan": ["trivy", "image", "{image}"] })).unwrap();
    assert!(matches!(settings.image, Image::Build(BuildImage::Bakery(_))));
    assert_eq!(settings.scan_fails, ScanFails::Block);
    assert_eq!((settings.build_timeout, settings.build_context_max_mib), (Span(7200), 1024));
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    for (image, why) in [
        (json!("posit/connect"), "names no version"),
        (json!("posit/connect:latest"), "moves"),
        (json!("Posit/connect:1"), "not the reference"),
        (json!(3), "expected an image such as"),
        (json!({}), "match-source"),
        (json!({ "reference": "a:1", "os": "x" }), "either"),
        (json!({ "version": "newest" }), "match-source"),
        (json!({ "archive": "/x.tar", "os": "x" }), "either"),
        (json!({ "archive": "/x.tar", "digest": "sha256:12" }), "64 digits"),
        (json!({ "reference": "a:1", "digest": "x" }), "belongs to"),
        (json!({ "versoin": "match-source" }), "unknown field"),
        (json!({ "build": {} }), "give `bakery`, or"),
        (json!({ "build": { "bakery": "/b.yaml" }, "os": "x" }), "stand in `build`"),
        (json!({ "build": { "bakery": "/b.yaml" }, "context": "/x" }), "give either `build`"),
        (json!({ "build": { "bakery": "/b.yaml", "vresion": "x" } }), "unknown field"),
        (json!({ "containerfile": "/c", "archive": "/x.tar" }), "no other keys"),
        (json!({ "context": "/x" }), "give `bakery`, or"),
    ] {
        let error = read(json!({ "image": image })).unwrap_err();
        assert!(error.contains(why), "{image}: {error}");
    }
    let error = read(json!({ "image": "a:1", "start-timeout": "soon" })).unwrap_err();
    assert!(error.contains("such as \"90s\""), "{error}");
    let login = json!({ "registry": "https://ghcr.io/v2", "user": "u", "password": { "credential": "c" } });
    let error = read(json!({ "image": "a:1", "login": login })).unwrap_err();
    assert!(error.contains("not the host of a registry"), "{error}");
    assert!(read(json!({ "image": "a:1", "publisch": "x" })).unwrap_err().contains("unknown field"));
}

#[test]
fn names_that_the_engine_would_refuse_are_refused_first() {
    let named = |key: &str, value: &str| {
        let mut settings = json!({ "image": "a:1" });
        settings[key] = json!(value);
        read(settings).unwrap().names("prod", "vm")
    };
    for (key, value) in [
        ("name", "a b"),
        ("name", "-a"),
        ("name", "x"),
        ("hostname", "under_score"),
        ("publish", "3940"),
        ("publish", "127.0.0.1:0"),
        ("publish", "localhost:3940"),
    ] {
        assert!(named(key, value).is_err(), "{key} = {value}");
    }
    let long = "h".repeat(80);
    let names = read(json!({ "image": "a:1" })).unwrap().names("prod", &long).unwrap();
    assert_eq!(names.hostname.len(), 63);
    assert_eq!(reach(&named("publish", "[::]:3940").unwrap().publish), "[::1]:3940");
    assert_eq!(reach(&named("publish", "0.0.0.0:80").unwrap().publish), "127.0.0.1:80");
}

#[test]
fn the_schema_describes_every_setting_and_says_the_keys_of_an_image_as_they_are_read() {
    fn look(at: &str, schema: &serde_json::Value) {
        for (name, of) in schema["properties"].as_object().into_iter().flatten() {
            assert!(of.get("description").is_some(), "{at}.{name} has no description");
        }
        let alternatives = schema.get("anyOf").or_else(|| schema.get("oneOf"));
        for one in alternatives.and_then(|all| all.as_array()).into_iter().flatten() {
            look(at, one);
        }
    }
    let schema = serde_json::to_value(schemars::schema_for!(Settings)).unwrap();
    look("with", &schema);
    schema["$defs"].as_object().unwrap().iter().for_each(|(name, of)| look(name, of));
    let image = serde_json::to_string(&schema["$defs"]["BuildKeys"]).unwrap();
    assert!(image.contains("\"build\"") && image.contains("\"containerfile\""), "{image}");
    assert!(!image.contains("\"bakery\""), "it is read only below `build`: {image}");
}
