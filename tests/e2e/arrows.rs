//! Who may import whom, read from `cargo metadata`: purity and layering are crate boundaries, and these are
//! their rules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// Which of our crates each may name, with tests and build scripts left aside.
const ALLOWED: [(&str, &[&str]); 10] = [
    ("fleetvisor-model", &[]),
    ("fleetvisor-keeper", &[]),
    ("fleetvisor-core", &["fleetvisor-model"]),
    ("fleetvisor-proto", &["fleetvisor-model"]),
    ("fleetvisor-link", &["fleetvisor-core", "fleetvisor-model", "fleetvisor-proto"]),
    (
        "fleetvisor-agent",
        &["fleetvisor-core", "fleetvisor-keeper", "fleetvisor-link", "fleetvisor-model", "fleetvisor-proto"],
    ),
    ("fleetvisor-controller", &["fleetvisor-model", "fleetvisor-proto"]),
    ("fleetvisor-ctl", &["fleetvisor-model", "fleetvisor-proto"]),
    ("fleetvisor-tests", &["fleetvisor-model", "fleetvisor-proto"]),
    ("fleetvisor-sim", &["fleetvisor-core", "fleetvisor-link", "fleetvisor-model", "fleetvisor-proto"]),
];

/// Must not be able to name a runtime, the system or a clock.
const PURE: [&str; 2] = ["fleetvisor-model", "fleetvisor-core"];
const IMPURE: [&str; 8] = ["tokio", "nix", "libc", "mio", "socket2", "tonic", "hyper", "chrono"];

fn metadata() -> Metadata {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    MetadataCommand::new()
        .manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
        // What other systems need has not been downloaded.
        .other_options(vec!["--offline".to_owned(), "--filter-platform".to_owned(), platform])
        .exec()
        .expect("cargo metadata reads the workspace")
}

/// Direct dependencies of each package that its library or programs are built with.
fn normal_dependencies(metadata: &Metadata) -> BTreeMap<PackageId, BTreeSet<PackageId>> {
    let resolve = metadata.resolve.as_ref().expect("metadata comes with its graph");
    resolve
        .nodes
        .iter()
        .map(|node| {
            let normal = node
                .deps
                .iter()
                .filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal))
                .map(|dep| dep.pkg.clone())
                .collect();
            (node.id.clone(), normal)
        })
        .collect()
}

#[test]
fn our_crates_import_each_other_only_along_the_arrows() {
    let metadata = metadata();
    let dependencies = normal_dependencies(&metadata);
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let members: BTreeMap<&PackageId, &str> = metadata
        .workspace_packages()
        .into_iter()
        .map(|package| (&package.id, package.name.as_str()))
        .collect();
    let names: BTreeSet<&str> = members.values().copied().collect();
    assert_eq!(names, allowed.keys().copied().collect(), "each crate of the workspace has its rule");
    for (id, name) in &members {
        for import in dependencies[*id].iter().filter_map(|import| members.get(import)) {
            assert!(allowed[name].contains(import), "{name} must not import {import}");
        }
    }
}

#[test]
fn the_pure_crates_reach_no_runtime_and_no_system() {
    let metadata = metadata();
    let dependencies = normal_dependencies(&metadata);
    for name in PURE {
        let package = metadata
            .workspace_packages()
            .into_iter()
            .find(|package| package.name.as_str() == name)
            .expect("a crate of the workspace");
        for dependency in &package.dependencies {
            let dependency = dependency.name.as_str();
            assert!(!IMPURE.contains(&dependency), "{name} names {dependency}");
        }
        let mut seen = BTreeSet::new();
        let mut open = vec![package.id.clone()];
        while let Some(id) = open.pop() {
            if !seen.insert(id.clone()) {
                continue;
            }
            open.extend(dependencies[&id].iter().cloned());
            let reached = metadata[&id].name.as_str();
            assert!(!["tokio", "nix", "mio"].contains(&reached), "{name} reaches {reached}");
        }
    }
}

#[test]
fn only_the_keeper_may_be_unsafe() {
    for package in metadata().workspace_packages() {
        let manifest = std::fs::read_to_string(&package.manifest_path).expect("a manifest can be read");
        let inherits = manifest.contains("[lints]\nworkspace = true");
        let keeper = package.name.as_str() == "fleetvisor-keeper";
        assert_eq!(inherits, !keeper, "{}: the workspace's lints forbid unsafe", package.name);
    }
    let root = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
        .expect("the root manifest can be read");
    assert!(root.contains("unsafe_code = \"forbid\""));
}
