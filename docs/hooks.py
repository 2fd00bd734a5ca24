"""What the site needs beside the Markdown of the repository; mkdocs calls the `on_` functions.

Some pages are made of files elsewhere, which are written for the repository: their links, and the
code in their tables, are changed for the site. In the HTML, names become links to the reference,
pictures become links to themselves, and the buttons that copy code leave out prompts and results.
"""

import ast
import base64
import html
import json
import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
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


def on_page_markdown(markdown, page, config, files):
    """Links of the repository become links of the site, and code is written as it is shown."""
    markdown = re.sub(r"^([ ]*)```python\n(?=\1>>> )", r"\1```pycon\n", markdown, flags=re.M)
    markdown = re.sub(r"^\|.*", without_escapes, markdown, flags=re.M)
    here = page.file.src_uri
    written = {page: file for file, page in ELSEWHERE.items()}.get(here, f"docs/{here}")

    def link(found):
        text, target, anchor = found[1], found[2], found[3] or ""
        file = posixpath.normpath(posixpath.join(posixpath.dirname(written), target))
        example = re.fullmatch(r"examples/(\w+)\.py", file)
        if file == "docs/pictures":
            place, title = "examples.md", "Examples"
        elif example and has_results(ROOT / file):
            place, title = "examples.md", example_title(ROOT / file)
            anchor = f"#{example[1]}"
        else:
            place = ELSEWHERE.get(file, file.removeprefix("docs/"))
            title = title_of(files.get_file_from_path(place))
        if files.get_file_from_path(place):
            place = posixpath.relpath(place, posixpath.dirname(here) or ".")
        elif (ROOT / file).exists():
            place = f"{config.repo_url}/blob/main/{file}"
        else:
            return found[0]
        is_path = re.fullmatch(r"[\w/.-]+\.(md|py|ipynb)|docs/\w+", text)
        return f"[{title if is_path and title else text}]({place}{anchor})"

    return re.sub(r"\[([^\[\]]*)\]\(([^\s()#:]+)(#[^\s()]*)?\)", link, markdown)


def without_escapes(row):
    r"""A row of a table in which code has `|`, where GitHub needs `\|`."""
    return re.sub(r"`[^`]+`", lambda code: code[0].replace(r"\|", "|"), row[0])


def title_of(file):
    """The first heading of a page, or `None` for what is no page."""
    if file is None or not file.is_documentation_page():
        return None
    return re.search(r"^# (.+)", file.content_string, re.M)[1]


def on_page_content(html, page, config, **_):
    for module in re.findall(r'<h[12] id="(jax_dynrnn\.\w+)">', html):
        config.plugins["autorefs"].register_anchor(page=page, identifier=module)
    html = re.sub(r'<div class="highlight">.*?</div>', copied, html, flags=re.S)
    html = re.sub(r'<img [^>]*src="([^"]+)"[^>]*>', r'<a class="picture" href="\1">\g<0></a>', html)
    html = html.replace('href="source:', f'href="{config.repo_url}/blob/main/')
    return re.sub(r"<t[dh]\b.*?</t[dh]>", with_whole_names, Linked(html).text, flags=re.S)


def on_post_page(output, **_):
    # This attribute makes the theme ask GitHub how many stars the repository has.
    return output.replace(' data-md-component="source"', "")


def on_post_template(output_content, **_):
    return on_post_page(output_content)


def with_whole_names(cell):
    """A cell of a table in which code without spaces, such as a name, is not broken."""
    return re.sub(r"<code>(?=[^<\s]*</code>)", '<code class="name">', cell[0])


def copied(block):
    """A block of code with the text that its button copies: without prompts and results."""
    block = re.sub(r' *<span class="c1"># doctest: [^<]*</span>', "", block[0])
    if 'class="gp"' not in block:
        return block
    shown = html.unescape(re.sub(r"<[^>]+>", "", block))
    lines, in_statement = [], False
    for line in shown.splitlines():
        in_statement = line.startswith(">>>") or (in_statement and line.startswith("..."))
        if in_statement:
            lines.append(line[4:])
    text = html.escape("\n".join(lines))
    return block.replace("<div", f'<div data-copy="{text}"', 1)


class Linked:
    """HTML in which names of the reference are links, once in a section and in a row of a table."""

    TOKENS = re.compile(
        r"<h[1-6]\b[^>]*>.*?</h[1-6]>"
        r"|<(?P<skipped>pre|a|autoref)\b.*?</(?P=skipped)>"
        r"|<thead>.*?</thead>|<tr>|<td\b"
        r"|(?P<others>(?:Flax|Keras|Haiku|Equinox|PyTorch|TF1|TensorFlow)(?:'s|’s)(?: own)? )?"
        r"<code>(?P<name>[A-Za-z_][\w.]*)(?:\([^<]*\))?</code>",
        re.S,
    )

    def __init__(self, html):
        self.entry, self.linked = "", set()
        self.column, self.starts_elsewhere = 0, False
        self.text = self.TOKENS.sub(self.token, html)

    def token(self, found):
        text = found[0]
        if found["name"]:
            return self.name(found)
        if text.startswith("<h"):
            self.entry, self.linked = re.search(r'id="([^"]*)"|$', text)[1] or "", set()
        elif text.startswith("<thead"):
            # A table from the names of another library to those here.
            here = r"</th>.*<th[^>]*>(<code>from jax|here)"
            self.starts_elsewhere = bool(re.search(here, text, re.S))
        elif text == "<tr>":
            self.column, self.linked = 0, set()
        elif text == "<td":
            self.column += 1
        return text

    def name(self, found):
        path = REFERENCE.get(found["name"])
        inside = (self.entry + ".").startswith(f"{path}.")
        elsewhere = found["others"] or (self.starts_elsewhere and self.column == 1)
        if found["name"].startswith(("linen.", "nnx.")):  # Flax has modules of these names
            elsewhere = elsewhere or "Flax" in found.string[: found.start()][-40:]
        if path is None or inside or elsewhere or path in self.linked:
            return found[0]
        self.linked.add(path)
        return f'<autoref identifier="{path}" optional>{found[0]}</autoref>'


def reference():
    """The names that a text may use for an entry of the reference, and the entry's path."""
    paths = {}
    for page in sorted(ROOT.glob("docs/api/*.md")):
        text = page.read_text()
        paths |= {module: {module} for module in re.findall(r"^#.*\{#(\S+)\}", text, re.M)}
        for path, options in re.findall(r"^::: (\S+)((?:\n +.*)*)", text, re.M):
            members = re.search(r" members: \[(.*)\]", options)
            members = members[1].split(", ") if members else []
            for entry in [path, *(f"{path}.{member}" for member in members)]:
                for name in names(entry):
                    paths.setdefault(name, set()).add(entry)
    return {name: entries.pop() for name, entries in paths.items() if len(entries) == 1}


def names(path):
    """`jax_dynrnn.nnx.RNN` is also `nnx.RNN`, `rnnx.RNN` and, were it the only one, `RNN`."""
    _, *parts = path.split(".")
    found = {path, "rnn." + ".".join(parts)} | {".".join(parts[i:]) for i in range(len(parts))}
    for module, short in (("linen", "rnnl"), ("nnx", "rnnx")):
        if parts[0] == module:
            found.add(".".join([short, *parts[1:]]))
    # Words such as `flax`, `kind` and `step` have other meanings too.
    is_method = len(parts) > 1 and parts[-2][0].isupper()
    is_word = parts[0] == "interop" and parts[-1].isalpha() and not parts[-1].endswith("Cell")
    return found - {parts[-1]} if is_method or is_word else found


REFERENCE = reference()


def has_results(script):
    return (script.parent / "results" / f"{script.stem}.json").exists()


def example_title(script):
    title = ast.get_docstring(ast.parse(script.read_text())).partition("\n\n")[0]
    return title.partition(":")[0].rstrip(".")


def examples():
    """A section for each script: what it is, its picture, what it measured, and itself."""
    parts = ["# Examples\n\nReal tasks on real data, a script each; `make examples` runs them all."]
    scripts = sorted(ROOT.glob("examples/*.py"))
    return "\n\n".join(parts + [example(script) for script in scripts if has_results(script)])


def example(script):
    kept = json.loads((script.parent / "results" / f"{script.stem}.json").read_text())
    title, _, text = ast.get_docstring(ast.parse(script.read_text())).partition("\n\n")
    words = example_title(script)
    picture = f"pictures/{script.stem}.png"
    drawn = f"\n\n![{words}]({picture})" if (ROOT / "docs" / picture).exists() else ""
    source = "\n".join(f"    {line}".rstrip() for line in script.read_text().splitlines())
    return (
        f"## {words} {{#{script.stem}}}\n\n{title}\n\n{text}{drawn}\n\n"
        f"| {kept['measure']} | reference | seconds |\n|---|---|---|\n"
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
            parts.append(f"```{{.text .no-copy}}\n{said.rstrip()}\n```")
        for image in (output.get("data", {}).get("image/png") for output in outputs):
            if image:
                file = f"pictures/{Path(page).stem}-{len(pages)}.png"
                pages[file] = base64.b64decode(image)
                parts.append(f"![What the cell above draws]({file})")
    return pages | {page: "\n\n".join(parts)}
