"""The site, built once: what its pages show, where their links lead, and what is copied."""

import ast
import doctest
import html
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
MODULES = ("jax_dynrnn", "jax_dynrnn.linen", "jax_dynrnn.nnx", "jax_dynrnn.testing")
MODULES += ("jax_dynrnn.interop.foreign",)
LAYERS = ("RNN", "ScannedRNN", "Bidirectional", "StackedBidirectional", "RNNCell")
BASES = ("jax_dynrnn.Cell", "jax_dynrnn.StagedCell", "jax_dynrnn.MatmulCell")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The HTML of each page by its path."""
    pytest.importorskip("mkdocstrings_handlers.python", reason="the group `docs` is not installed")
    pytest.importorskip("material", reason="the group `docs` is not installed")
    place = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", place]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    files = sorted(f for f in place.rglob("*") if f.is_file())
    pages = {f.relative_to(place).as_posix(): f.read_text() for f in files if f.suffix == ".html"}
    return pages | {f.relative_to(place).as_posix(): "" for f in files if f.suffix != ".html"}


def article(page):
    return re.search(r"<article.*?</article>", page, re.S)[0]


def shown(markup):
    return html.unescape(re.sub(r"<[^>]+>", "", markup))


def entries(site):
    """The HTML of each entry of the reference, up to the next one, by its path."""
    found = {}
    for name, page in site.items():
        if name.startswith("api/") and page:
            _, *parts = re.split(r'<h\d id="(jax_dynrnn[\w.]*)"', article(page))
            found |= dict(zip(parts[::2], parts[1::2], strict=True))
    return found


def classes():
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            if isinstance(value := getattr(module, name), type):
                yield f"{module.__name__}.{name}", value


def shown_parameters(entry):
    """Names, whether they are keyword-only, and defaults, of the signature that is shown."""
    block = re.search(r'<div class="doc-signature.*?</div>', entry, re.S)
    call = shown(block[0]).strip().removeprefix("linen.").removeprefix("nnx.")
    arguments = ast.parse(f"def {call}: pass").body[0].args
    missing = [None] * (len(arguments.args) - len(arguments.defaults))
    plain = zip(arguments.args, missing + arguments.defaults, strict=True)
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    found = [(a, False, d) for a, d in plain] + [(a, True, d) for a, d in named]
    return [(a.arg, only, d and ast.unparse(d)) for a, only, d in found]


def parameters(function):
    """The same, of the function itself; `parent` and `name` are those of every Linen module."""
    found = []
    for p in inspect.signature(function).parameters.values():
        if p.name not in ("self", "parent", "name"):
            default = None if p.default is p.empty else p.default
            text = getattr(default, "__name__", repr(default))
            found.append(
                (p.name, p.kind is p.KEYWORD_ONLY, text if p.default is not p.empty else None)
            )
    return found


def without_module(found):
    return [(name, only, d and d.removeprefix("jnp.")) for name, only, d in found]


def test_every_class_shows_its_constructor_with_all_defaults(site):
    shown_entries = entries(site)
    for path, value in classes():
        if path in BASES:
            assert "doc-signature" not in shown_entries[path].partition("</h2>")[2][:40]
            continue
        if path.rpartition(".")[2] != value.__name__:  # another name of a class
            assert f"= {value.__name__}\n" in shown(shown_entries[path])
            continue
        made = value if value.__init__ is object.__init__ else value.__init__
        found = shown_parameters(shown_entries[path])
        assert without_module(found) == parameters(made), path


def test_keywords_of_a_constructor_stand_after_a_star(site):
    signature = shown(entries(site)["jax_dynrnn.LSTMCell"])
    assert re.search(r"LSTMCell\(\s+num_units,\s+\*,", signature)
    assert "forget_bias=1.0" in signature


@pytest.mark.parametrize("module", ["linen", "nnx"])
@pytest.mark.parametrize("layer", LAYERS)
def test_methods_of_layers_have_entries_that_list_their_options(site, module, layer):
    shown_entries, path = entries(site), f"jax_dynrnn.{module}.{layer}"
    value = getattr(importlib.import_module(f"jax_dynrnn.{module}"), layer)
    methods = {"__call__"} | {name for name in ("step", "start") if hasattr(value, name)}
    for name in methods:
        found = shown_parameters(shown_entries[f"{path}.{name}"])
        assert found == parameters(getattr(value, name)), name
    contents = re.search(r'md-nav--secondary".*?</nav>\s*</div>', site["api/flax/index.html"], re.S)
    assert f"{module}.{layer}" in contents[0].split()


def test_no_private_name_and_no_label_is_in_the_reference(site):
    found = entries(site)
    assert not [path for path in found if re.search(r"\._(?!_call__)", path)]
    assert "jax_dynrnn.Cell.zero_state" in found
    assert " = _" not in shown(found["jax_dynrnn.Cell.feature_ndim"])
    assert not [name for name, page in site.items() if "doc-label" in page]


def test_entries_link_to_the_lines_of_their_source(site):
    shown_entries = entries(site)
    for path, value in classes():
        if path.rpartition(".")[2] != value.__name__:
            continue
        link = re.search(r'blob/main/(\S+)#L(\d+)-L(\d+)">source', shown_entries[path])
        lines = (ROOT / link[1]).read_text().splitlines()[int(link[2]) - 1 : int(link[3])]
        assert any(line.startswith(f"class {value.__name__}") for line in lines), path


def test_code_in_tables_has_no_escapes(site):
    for name, page in site.items():
        for cell in re.findall(r"<t[dh]\b.*?</t[dh]>", page, re.S):
            assert r"\|" not in cell, (name, cell)
    assert 'params | {"kernel": mask' in shown(site["porting-from-tf1/index.html"])


@pytest.mark.parametrize(
    "page, source",
    [
        ("index.html", "README.md"),
        ("quickstart/index.html", "docs/quickstart.md"),
        ("own-cell/index.html", "docs/own-cell.md"),
    ],
)
def test_what_is_copied_is_what_a_doctest_runs(site, page, source):
    blocks = re.findall(r"^```python\n(?=>>> )(.*?)^```", (ROOT / source).read_text(), re.S | re.M)
    run = ["".join(e.source for e in doctest.DocTestParser().get_examples(b)) for b in blocks]
    copied = [html.unescape(text) for text in re.findall(r'data-copy="([^"]*)"', site[page])]
    assert [ast.unparse(ast.parse(text)) for text in copied] == [
        ast.unparse(ast.parse(text)) for text in run
    ]


def test_every_block_with_prompts_says_what_is_copied(site):
    for name, page in site.items():
        for block in re.findall(r'<div[^>]*class="[^"]*highlight.*?</div>', page, re.S):
            assert ('class="gp"' in block) == ("data-copy=" in block), (name, shown(block))
            assert ">>> " not in shown(block) or 'class="gp"' in block, (name, shown(block))


def test_names_in_text_link_to_their_entry(site):
    link = r'href="../api/running/#jax_dynrnn.dynamic_rnn"><code[^>]*>dynamic_rnn</code></a>'
    assert re.search(link, site["porting-from-tf1/index.html"])
    assert re.search(r'#jax_dynrnn.nnx.ScannedRNN"><code>nnx.ScannedRNN', site["agents/index.html"])
    assert '/flax/#jax_dynrnn.nnx"><code>jax_dynrnn.nnx</code>' in site["changelog/index.html"]
    found = entries(site)
    assert "<code>nn.RNN</code>, <code>nnx.RNN</code>" in site["which-library/index.html"].replace(
        ' class="name"', ""
    )
    assert "Flax's own <code>nnx.RNN</code>" in found["jax_dynrnn.nnx.RNNCell"]
    # Both frameworks have one.
    assert not any(re.search(r"<a[^>]*><code[^>]*>RNN</code></a>", page) for page in site.values())
    # An entry does not link to itself.
    for path, entry in found.items():
        assert f'href="#{path}"><code' not in entry, path


def test_links_lead_to_pages_and_headings_that_exist(site):
    ids = {name: set(re.findall(r'\bid="([^"]+)"', page)) for name, page in site.items()}
    for name, page in site.items():
        if not page or name == "404.html":
            continue
        for target in re.findall(r'\b(?:href|src)="([^"]+)"', page):
            url = urlsplit(html.unescape(target))
            if url.scheme or url.netloc:
                continue
            path = os.path.normpath(os.path.join(os.path.dirname(name), url.path or "."))
            path = name if not url.path else path
            path = path if path in site else os.path.normpath(os.path.join(path, "index.html"))
            assert path in site, (name, target)
            if url.fragment and not url.fragment.startswith("__"):
                assert url.fragment in ids[path], (name, target)


def test_texts_of_links_are_no_paths_of_the_repository(site):
    for name, page in site.items():
        for target, text in re.findall(r'<a[^>]*href="([^"]*)"[^>]*>([^<]*)</a>', page):
            is_path = re.fullmatch(r"[\w/.-]+\.(md|ipynb)|(docs|examples)/\S*", text)
            assert not is_path or "/blob/main/" in target, (name, text)


def test_nothing_is_loaded_from_another_host(site):
    for name, page in site.items():
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*\bsrc="([^"]*)"', page)
        loaded += re.findall(r'<link[^>]*rel="(?:stylesheet|icon|preconnect)"[^>]*>', page)
        assert not [each for each in loaded if "//" in each], name
        # With this the theme's script asks GitHub about the repository.
        assert 'data-md-component="source"' not in page


def test_every_page_of_the_menu_exists_and_has_all_modes(site):
    for page in re.findall(r"(\S+)\.md$", (ROOT / "mkdocs.yml").read_text(), re.M):
        name = "index.html" if page == "index" else f"{page}/index.html"
        assert name in site
        assert len(re.findall(r'class="md-option"', site[name])) == 3  # automatic, light, dark


def test_pictures_link_to_themselves(site):
    found = 0
    for name, page in site.items():
        for source in re.findall(r'<img[^>]*src="([^"]*\.png)"', page):
            assert re.search(rf'<a class="picture" href="{source}"><img', page), (name, source)
            found += 1
    assert found > 10


def test_names_in_tables_are_not_broken(site):
    assert '<code class="name">["cell_0"]["fw"]</code>' in html.unescape(
        site["porting-from-tf1/index.html"]
    )
