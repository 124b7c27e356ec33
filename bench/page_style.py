"""The look of the bench's page: one column on a phone, two beside each other on a screen, light or dark."""

STYLE_SHEET = """
:root { --ink: #1c1f23; --soft: #5a6470; --paper: #fbfaf7; --card: #ffffff; --line: #dedbd3; --good: #1d6b3c;
  --bad: #a3331f; --accent: #1b6ca8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e1; --soft: #a5adb6; --paper: #15171a; --card: #1d2024;
  --line: #363b41; --good: #7fce9c; --bad: #f0927f; --accent: #7db8e6; }
  figure svg { filter: invert(0.885) hue-rotate(180deg); } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1.0625rem/1.55 system-ui, sans-serif; }
header, main, footer { max-width: 76rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 2.2rem; }
h1 { font-size: clamp(1.7rem, 5vw, 2.6rem); line-height: 1.15; margin: 0.2rem 0 0.8rem; letter-spacing: -0.015em; }
h2 { font-size: 1.3rem; margin: 2.4rem 0 0.8rem; }
p, dl { max-width: 44rem; }
.mark { margin: 0; color: var(--soft); font-size: 0.85rem; letter-spacing: 0.08em; text-transform: uppercase; }
.lead { font-size: 1.18rem; }
.figures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
figure { margin: 0; padding: 0.6rem; background: var(--card); border: 1px solid var(--line); border-radius: 0.6rem; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { padding: 0.5rem 0.3rem 0.2rem; color: var(--soft); font-size: 0.88rem; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
a { color: var(--accent); }
code { font-size: 0.88em; overflow-wrap: anywhere; }
dt { font-weight: 600; }
dd { margin: 0 0 0.5rem; color: var(--soft); }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 0.6rem; background: var(--card); }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: 0.9rem; }
th, td { padding: 0.4rem 0.65rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 500; position: sticky; left: 0; background: var(--card); white-space: nowrap; }
tbody tr:last-child > * { border-bottom: 0; }
tbody td:first-child { min-width: 15rem; }
tbody th ~ td { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.held { color: var(--good); } .missed { color: var(--bad); font-weight: 600; }
footer { padding-top: 1.5rem; padding-bottom: 2.5rem; color: var(--soft); font-size: 0.9rem; }
@media print { .figures { display: block; } figure { break-inside: avoid; margin-bottom: 1rem; } }
"""
