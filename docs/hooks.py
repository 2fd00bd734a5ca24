"""The pages of the site that are made of files elsewhere in the repository.

mkdocs calls `on_files` and `on_page_markdown`.
"""

import ast
import base64
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "tests/tf_cases.md": "tf_cases.md",
    "examples/outputs_vs_state.ipynb": "outputs-vs-state.md",
}
"""Files of the repository, and the pages that they are."""
SHOWN = [
    f"benchmarks/results/{name}"
    for name in ("cpu.png", "cpu.json", "scaling.png", "scaling_odd_sizes.png")
]
"""What those show, where it is."""


def on_files(files, config):
    from mkdocs.structure.files import File

    pages = {"examples.md": examples()}
    for file, page in ELSEWHERE.items():
        text = (ROOT / file).read_text()
        pages |= notebook(text, page) if file.endswith(".ipynb") else {page: text}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    for name in SHOWN:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown, page, **_):
    """Links of the repository become links of the site, from wherever they are."""
    up = "../" * page.file.src_uri.count("/")

    def link(found):
        target = found[2].removeprefix("../").removeprefix("docs/")
        if target == "pictures":
            return f"{found[1]}({up}examples.md)"
        example = re.fullmatch(r"examples/(\w+)\.py", target)
        target = f"examples.md#{example[1]}" if example else ELSEWHERE.get(target, target)
        return f"{found[1]}({up}{target})"

    begins = r"docs/|examples/|tests/|benchmarks/|README|CONTRIBUTING|SECURITY"
    local = rf"(\])\(((?:\.\./)?(?:{begins})[^)\s]*)\)"
    return re.sub(local, link, markdown)


def examples():
    """A section for each script: what it is, its picture, what it measured, and itself."""
    parts = ["# Examples\n\nReal tasks on real data, a script each; `make examples` runs them all."]
    for script in sorted(ROOT.glob("examples/*.py")):
        kept = ROOT / "examples" / "results" / f"{script.stem}.json"
        if kept.exists():
            parts.append(example(script, json.loads(kept.read_text())))
    return "\n\n".join(parts)


def example(script, kept):
    title, _, text = ast.get_docstring(ast.parse(script.read_text())).partition("\n\n")
    words = title.partition(":")[0].rstrip(".")
    picture = f"pictures/{script.stem}.png"
    drawn = f"\n\n![{words}]({picture})" if (ROOT / "docs" / picture).exists() else ""
    source = "\n".join(f"    {line}".rstrip() for line in script.read_text().splitlines())
    return (
        f"## {words} {{#{script.stem}}}\n\n{title}\n\n{text}{drawn}\n\n"
        f"| {kept['measure']} | to reach | seconds |\n|---|---|---|\n"
        f"| **{kept['value']}** | {kept['reference']} | {kept['seconds']:.0f} |\n\n"
        f'??? example "examples/{script.name}"\n\n    ```python\n{source}\n    ```'
    )


def notebook(text, page):
    """A page of a notebook's cells with what they print, and its pictures."""
    pages, parts = {}, []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        outputs = cell.get("outputs", [])
        if said := "".join("".join(output.get("text", "")) for output in outputs):
            parts.append(f"```text\n{said.rstrip()}\n```")
        for image in (output.get("data", {}).get("image/png") for output in outputs):
            if image:
                file = f"pictures/{Path(page).stem}-{len(pages)}.png"
                pages[file] = base64.b64decode(image)
                parts.append(f"![What the cell above draws]({file})")
    return pages | {page: "\n\n".join(parts)}
