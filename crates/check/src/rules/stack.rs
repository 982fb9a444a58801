//! The stack file's own mistakes, as `berth apply` would report them.

use crate::{
    Kind,
    node::Ask,
    world::{Out, World},
};
use std::io;

pub fn mistakes(world: &World<'_>, out: &mut Out) {
    let Some(stack) = world.stack() else { return };
    // Files that the stack file names are the binary's to read; here each is taken to be there.
    let there = |_: &str| -> io::Result<String> { Ok("select 1".to_owned()) };
    let environments = world.of(Kind::Stack).filter(|file| file.tree.entry("stack").is_none());
    let alone = [vec![stack]].into_iter();
    for layers in alone.chain(environments.map(|upper| vec![stack, upper])) {
        let texts: Vec<_> = layers.iter().map(|file| (file.path.as_str(), file.text.as_str())).collect();
        let Err(mistakes) = berth_config::parse_layers(&texts, None, &there) else { continue };
        for mistake in mistakes.iter() {
            let file = layers.iter().find(|file| mistake.file.as_ref() == Some(&file.path)).unwrap_or(&stack);
            let remedy = mistake.problem.hint();
            let remedy = remedy.unwrap_or_else(|| "docs/stack-file.md lists every key with its values".to_owned());
            out.note(file, mistake.line.unwrap_or(1), &mistake.key, mistake.problem.to_string(), remedy);
        }
    }
}
