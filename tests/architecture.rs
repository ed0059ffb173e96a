//! The picture of docs/architecture.md is true: a room of `src` uses what stands on lower floors only, and in every folder the modules
//! beside each other use each other in one direction.
//!
//! What only tests use is not looked at, nor what macros are given. A module and the folder below it are one: a child may use what its
//! parent defines. What the parent re-exports from another child counts as the parent's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, File, Item, ItemMod, UseTree,
    visit_mut::{self, VisitMut},
};

/// A module's path below the crate, such as `operation`, `plan`.
type Module = Vec<String>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What the production code of one module names.
struct Paths {
    /// The module that is being looked at: of a file, or one within it.
    module: Module,
    found: BTreeSet<Module>,
}

impl Paths {
    /// A path as it stands there, as one that begins below the crate. `None`: it leads into another crate, or is a local name.
    fn note(&mut self, path: &[String]) {
        let absolute: Module = match path.first().map(String::as_str) {
            Some("crate") => path[1..].to_vec(),
            Some("self") => self.module.iter().chain(&path[1..]).cloned().collect(),
            Some("super") => {
                let up = path.iter().take_while(|name| *name == "super").count();
                let parent = &self.module[..self.module.len().saturating_sub(up)];
                parent.iter().chain(&path[up..]).cloned().collect()
            }
            _ => return,
        };
        self.found.insert(absolute);
    }

    fn note_tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.note_tree(&with(&path.ident), &path.tree),
            UseTree::Name(name) => self.note(&with(&name.ident)),
            UseTree::Rename(name) => self.note(&with(&name.ident)),
            UseTree::Glob(_) => self.note(before),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_tree(before, tree)),
        }
    }
}

impl VisitMut for Paths {
    fn visit_item_mut(&mut self, item: &mut Item) {
        if !is_of_tests(attributes(item)) {
            visit_mut::visit_item_mut(self, item);
        }
    }

    fn visit_item_mod_mut(&mut self, module: &mut ItemMod) {
        self.module.push(module.ident.to_string());
        visit_mut::visit_item_mod_mut(self, module);
        self.module.pop();
    }

    fn visit_item_use_mut(&mut self, item: &mut syn::ItemUse) {
        self.note_tree(&[], &item.tree);
    }

    fn visit_path_mut(&mut self, path: &mut syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.note(&names);
        visit_mut::visit_path_mut(self, path);
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Const(item) => &item.attrs,
        _ => &[],
    }
}

fn is_of_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

/// All modules of production code, with what each names.
fn modules() -> BTreeMap<Module, BTreeSet<Module>> {
    let mut modules = BTreeMap::new();
    read(&root().join("src/lib.rs"), Module::new(), &mut modules);
    modules
}

fn read(file: &Path, module: Module, modules: &mut BTreeMap<Module, BTreeSet<Module>>) {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut parsed: File = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    for item in &parsed.items {
        if let Item::Mod(ItemMod { attrs, ident, content: None, .. }) = item
            && !is_of_tests(attrs)
        {
            let child: Module = [module.as_slice(), &[ident.to_string()]].concat();
            read(&file_of(&child), child, modules);
        }
    }
    let mut paths = Paths { module: module.clone(), found: BTreeSet::new() };
    paths.visit_file_mut(&mut parsed);
    modules.insert(module, paths.found);
}

fn file_of(module: &[String]) -> PathBuf {
    let path = module.iter().fold(root().join("src"), |path, name| path.join(name));
    [path.with_extension("rs"), path.join("mod.rs")]
        .into_iter()
        .find(|file| file.exists())
        .unwrap_or_else(|| panic!("no file of {}", module.join("::")))
}

/// In each folder: which of the modules beside each other use which.
fn beside(modules: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeMap<Module, BTreeMap<String, BTreeSet<String>>> {
    let mut folders: BTreeMap<Module, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (module, names) in modules {
        for name in names {
            // What it names is a module, or something in one.
            let Some(used) = (0..=name.len()).rev().map(|end| &name[..end]).find(|path| modules.contains_key(*path))
            else {
                continue;
            };
            let common = module.iter().zip(used).take_while(|(one, other)| one == other).count();
            if let (Some(from), Some(to)) = (module.get(common), used.get(common)) {
                let folder = folders.entry(module[..common].to_vec()).or_default();
                folder.entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    folders
}

/// A way from a module back to itself, if there is one.
fn cycle(uses: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn search(uses: &BTreeMap<String, BTreeSet<String>>, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        let here = way.last().expect("it begins somewhere").clone();
        for next in uses.get(&here).into_iter().flatten() {
            if let Some(begin) = way.iter().position(|name| name == next) {
                way.drain(..begin);
                way.push(next.clone());
                return true;
            }
            if !done.contains(next) {
                way.push(next.clone());
                if search(uses, way, done) {
                    return true;
                }
                way.pop();
            }
        }
        done.insert(here);
        false
    }
    let mut done = BTreeSet::new();
    uses.keys().find_map(|start| {
        let mut way = vec![start.clone()];
        (!done.contains(start) && search(uses, &mut way, &mut done)).then_some(way)
    })
}

#[test]
fn modules_beside_each_other_use_each_other_in_one_direction() {
    let cycles: Vec<String> = beside(&modules())
        .iter()
        .filter_map(|(folder, uses)| Some(format!("src/{}: {}", folder.join("/"), cycle(uses)?.join(" -> "))))
        .collect();
    assert!(cycles.is_empty(), "{}", cycles.join("\n"));
}

/// The rooms of docs/architecture.md, from the highest floor to the lowest.
fn floors() -> Vec<String> {
    let docs = fs::read_to_string(root().join("docs/architecture.md")).expect("docs/architecture.md");
    let rows = docs.lines().skip_while(|line| !line.starts_with("| room |")).skip(2);
    let rooms = rows.take_while(|line| line.starts_with('|')).map(|line| {
        let cell = line.split('|').nth(1).expect("a first cell");
        cell.trim().trim_matches('`').trim_end_matches('/').to_owned()
    });
    rooms.collect()
}

#[test]
fn a_room_uses_lower_floors_only() {
    let floors = floors();
    let modules = modules();
    let rooms: BTreeSet<String> = modules.keys().filter_map(|module| module.first().cloned()).collect();
    assert_eq!(rooms, floors.iter().cloned().collect(), "docs/architecture.md names every room of src");
    let floor = |room: &String| floors.iter().position(|name| name == room);
    let upwards: Vec<String> = beside(&modules)[&Module::new()]
        .iter()
        .flat_map(|(from, uses)| uses.iter().map(move |to| (from, to)))
        .filter(|(from, to)| floor(from) > floor(to))
        .map(|(from, to)| format!("{from} uses {to}, which docs/architecture.md has on a higher floor"))
        .collect();
    assert!(upwards.is_empty(), "{}", upwards.join("\n"));
}

#[test]
fn a_cycle_is_found() {
    let uses = |edges: &[(&str, &str)]| {
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in edges {
            uses.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        uses
    };
    assert_eq!(cycle(&uses(&[("a", "b"), ("a", "c"), ("b", "c")])), None);
    let found = cycle(&uses(&[("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")])).expect("a cycle");
    assert_eq!(found, ["b", "c", "d", "b"]);
}
