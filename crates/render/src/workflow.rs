//! `.github/workflows/images.yml`: builds the image, pushes it, and gives its digest to `berth release` on the server, over SSH.
//! Never a tag that could be moved, no more rights than that takes, and no secret on a command line.

use crate::{MARK, Run, Site};

pub fn render(site: &Site) -> String {
    // Two braces are an expression there.
    let expression = |inner: &str| format!("${{{{ {inner} }}}}");
    let (actor, token) = (expression("github.actor"), expression("secrets.GITHUB_TOKEN"));
    let (sha, digest) = (expression("github.sha"), expression("steps.build.outputs.digest"));
    let stack = &site.stack;
    let images = format!(
        "# {MARK}
name: images
on:
  push:
    branches: [main]
permissions:
  contents: read
  packages: write
concurrency:
  group: images
  cancel-in-progress: false
jobs:
  build:
    runs-on: ubuntu-latest
    timeout-minutes: 30
    outputs:
      image: {image}@{digest}
    steps:
      - uses: actions/checkout@v4
        with:
          persist-credentials: false
      - id: name
        run: echo \"image=ghcr.io/${{GITHUB_REPOSITORY,,}}/{stack}\" >> \"$GITHUB_OUTPUT\"
      - uses: docker/setup-buildx-action@v3
      - uses: docker/login-action@v3
        with:
          registry: ghcr.io
          username: {actor}
          password: {token}
      - id: build
        uses: docker/build-push-action@v6
        with:
          context: .
          push: true
          # Only so that the registry keeps it: nothing refers to an image by this name.
          tags: {image}:{sha}
          cache-from: type=gha
          cache-to: type=gha,mode=max
      - name: The image, as a server is told of it
        env:
          IMAGE: {image}@{digest}
        run: echo \"$IMAGE\" | tee -a \"$GITHUB_STEP_SUMMARY\"
",
        image = expression("steps.name.outputs.image"),
    );
    images + &release(site)
}

/// The services that run in the image, as one release. The server's API listens on its loopback alone, and SSH is the way to it.
fn release(site: &Site) -> String {
    let expression = |inner: &str| format!("${{{{ {inner} }}}}");
    let built = site.services.iter().filter(|service| matches!(service.run, Run::Command(_)));
    let services: Vec<String> = built.map(|service| format!("{}=$IMAGE", service.name)).collect();
    if services.is_empty() {
        return String::new();
    }
    format!(
        "  release:
    # Set the variables BERTH_SSH (user@host) and BERTH_KNOWN_HOSTS (`ssh-keyscan HOST`, compared on the host) and the secrets
    # BERTH_SSH_KEY and BERTH_API_KEY (`berth key create github --scope admin`); without BERTH_SSH images are built and no more.
    if: vars.BERTH_SSH != ''
    needs: build
    runs-on: ubuntu-latest
    timeout-minutes: 60
    permissions: {{}}
    steps:
      - name: The release comes to the cells
        env:
          IMAGE: {image}
          BERTH_SSH: {ssh}
          KNOWN_HOSTS: {hosts}
          SSH_KEY: {key}
          BERTH_API_KEY: {api}
        run: |
          umask 077
          printf '%s\\n' \"$SSH_KEY\" > \"$RUNNER_TEMP/key\"
          printf '%s\\n' \"$KNOWN_HOSTS\" > \"$RUNNER_TEMP/known_hosts\"
          # The name of the image is put in here, the rest is the server's. The first word of `create` is the release.
          # shellcheck disable=SC2029
          printf '%s\\n' \"$BERTH_API_KEY\" | ssh -i \"$RUNNER_TEMP/key\" -o IdentitiesOnly=yes \\
            -o UserKnownHostsFile=\"$RUNNER_TEMP/known_hosts\" -o StrictHostKeyChecking=yes \"$BERTH_SSH\" \\
            \"set -e; read -r BERTH_API_KEY; export BERTH_API_KEY; \\
            created=\\$(berth release create {services}); set -- \\$created; berth release roll \\$1 --wait --yes\"
",
        image = expression("needs.build.outputs.image"),
        ssh = expression("vars.BERTH_SSH"),
        hosts = expression("vars.BERTH_KNOWN_HOSTS"),
        key = expression("secrets.BERTH_SSH_KEY"),
        api = expression("secrets.BERTH_API_KEY"),
        services = services.join(" "),
    )
}
