//! The stack file's own mistakes, as `berth apply` would report them.

use crate::{
    Kind,
    node::Ask,
    read::File,
    world::{Out, World},
};
use berth_config::find;
use std::io;

pub fn mistakes(world: &World<'_>, out: &mut Out) {
    // One that does not say `stack` is an environment's, unless its name says otherwise.
    let by_name = || world.of(Kind::Stack).find(|file| is_plain(&file.path));
    let Some(stack) = world.stack().or_else(by_name) else { return };
    // Files that the stack file names are the binary's to read; here each is taken to be there.
    let there = |_: &str| -> io::Result<String> { Ok("select 1".to_owned()) };
    let environments =
        world.of(Kind::Stack).filter(|file| file.tree.entry("stack").is_none() && file.path != stack.path);
    let alone = [vec![stack]].into_iter();
    for layers in alone.chain(environments.map(|upper| vec![stack, upper])) {
        let texts: Vec<_> = layers.iter().map(|file| (file.path.as_str(), file.text.as_str())).collect();
        let mistakes = match berth_config::parse_layers(&texts, None, &there) {
            Ok(parsed) => {
                for (key, says) in (world.judge)(&parsed, world.now) {
                    let (file, line) = said(&layers, &key).unwrap_or((stack, 1));
                    out.note(file, line, &key, says, "docs/decide.md describes what the section `placement` may say");
                }
                continue;
            }
            Err(mistakes) => mistakes,
        };
        for mistake in mistakes.iter() {
            let file = layers.iter().find(|file| mistake.file.as_ref() == Some(&file.path)).unwrap_or(&stack);
            let remedy = mistake.problem.hint();
            let remedy = remedy.unwrap_or_else(|| "docs/stack-file.md lists every key with its values".to_owned());
            out.note(file, mistake.line.unwrap_or(1), &mistake.key, mistake.problem.to_string(), remedy);
        }
    }
}

/// The uppermost file that says a key, or what leads to it, and the line.
fn said<'a>(layers: &[&'a File], key: &str) -> Option<(&'a File, u64)> {
    let mut key = key;
    loop {
        let found = layers.iter().rev().find_map(|file| Some((*file, find(&file.tree, key)?.0)));
        if found.is_some() {
            return found;
        }
        key = key.rsplit_once('.')?.0;
    }
}

fn is_plain(path: &str) -> bool {
    ["berth.yaml", "berth.yml"].contains(&path.rsplit('/').next().unwrap_or(path))
}
