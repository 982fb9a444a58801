//! `.github/workflows/images.yml`: builds the image, pushes it, and prints its digest, which is what a server pulls.
//! Never a tag that could be moved, and no more rights than that takes.

use crate::{MARK, Site};

pub fn render(site: &Site) -> String {
    // Two braces are an expression there.
    let expression = |inner: &str| format!("${{{{ {inner} }}}}");
    let (actor, token) = (expression("github.actor"), expression("secrets.GITHUB_TOKEN"));
    let (sha, digest) = (expression("github.sha"), expression("steps.build.outputs.digest"));
    let stack = &site.stack;
    format!(
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
    )
}
