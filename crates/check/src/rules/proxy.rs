//! Redirects of nginx that lead nowhere.

use crate::{
    Kind,
    world::{Out, World},
};

pub fn redirect(world: &World<'_>, out: &mut Out) {
    for file in world.of(Kind::Nginx) {
        let Some(config) = &file.nginx else { continue };
        for server in config.all_directives().filter(|d| d.is("server")) {
            let Some(block) = &server.block else { continue };
            let name = block.directives().find(|d| d.is("server_name")).and_then(|d| d.first_arg());
            let catches_all = name.is_none_or(|name| name == "_" || name.is_empty() || name.starts_with('~'));
            let redirects = |d: &&nginx_lint_parser::ast::Directive| {
                (d.is("return") || d.is("rewrite"))
                    && d.args.iter().any(|arg| {
                        // The parser hands a variable in a word of its own, without its sign.
                        arg.as_str().contains("$server_name") || (arg.is_variable() && arg.as_str() == "server_name")
                    })
            };
            for directive in block.directives().filter(redirects).filter(|_| catches_all) {
                out.note(
                    file,
                    directive.name_span.start.line as u64,
                    &directive.name,
                    format!("every host is sent to `{}`: `$server_name` is the name in this block, not the one that was asked for", name.unwrap_or_default()),
                    "write `$host`, and refuse hosts that you do not serve",
                );
            }
        }
    }
}
