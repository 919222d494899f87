"""A real browser for tests of pages."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

NASTY = '<img src=x onerror="document.title=1">&"'
CHROMIUM = shutil.which("chromium")
TELL = """
const all = (s) => [...document.querySelectorAll(s)];
const rows = (n = 0) => [...all('table.results')[n].tBodies[0].rows]
  .filter((tr) => !tr.hidden && !tr.matches('.foot')).map((tr) => tr.cells[0].dataset.label);
const set = (name, value) => { const e = document.getElementById(name); e.value = value;
  e.dispatchEvent(new Event('input', { bubbles: true })); e.dispatchEvent(new Event('change', { bubbles: true })); };
const wait = async (ready) => {
  for (let n = 0; n < 200 && !ready(); n++) await new Promise((r) => setTimeout(r, 20)); };
"""


def browse(page: Path, steps: str, *, width: int = 1280, dark: bool = False) -> dict[str, object]:
    """Run a script in the page and return what it resolves to; errors and complaints fail."""
    text = page.read_text(encoding="utf-8")
    driver = (
        "<script>addEventListener('load', async () => { let told;"
        f"try {{ told = await (async () => {{ {steps} }})(); }}"
        "catch (error) { told = { error: String(error) }; }"
        "document.body.append(Object.assign(document.createElement('pre'), "
        "{ id: 'told', textContent: JSON.stringify(told) })); });</script>"
    )
    copy = page.with_name("driven.html")
    copy.write_text(text.replace("</body>", f"{driver}</body>"), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--enable-logging=stderr", "--disable-background-networking", f"--window-size={width},1600"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=20000"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run(
        [*command, "--dump-dom", f"file://{copy}"], capture_output=True, text=True, timeout=240, check=True
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    (told,) = re.findall(r'<pre id="told">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    value = json.loads(told.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert isinstance(value, dict)
    assert "error" not in value, value
    return value
