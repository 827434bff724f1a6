"""The style of a report's page: system fonts, both colour schemes, a phone's width, print."""

CSS = """
:root{color-scheme:light dark;--bg:#fdfdfb;--ink:#1a1c1e;--soft:#555b61;--rule:#dfddd6;--link:#0a5a8c;
--warn:#8a3b00;--warnbg:#fdf3e7}
@media (prefers-color-scheme:dark){:root{--bg:#14171a;--ink:#e8e6e1;--soft:#a9afb5;--rule:#30363b;
--link:#7cc4f0;--warn:#ffb877;--warnbg:#2a2118;--c0072b2:#4aa8e0;--cd55e00:#f0803c;--c009e73:#2fbf94;--ccc79a7:#dd93bd;
--c56b4e9:#7fc8f2;--ce69f00:#f0b030;--c7f7f7f:#a0a0a0;--c8c6d31:#c0a060}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55
system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;overflow-wrap:break-word}
main,header,footer{max-width:1160px;margin:0 auto;padding:0 20px}
header{padding-top:36px}
.kind{margin:0;color:var(--soft);font-size:.85rem;letter-spacing:.04em}
h1{font-size:clamp(1.6rem,4.5vw,2.3rem);line-height:1.15;margin:.1em 0 .35em;letter-spacing:-.015em;font-weight:700}
h2{font-size:1.5rem;line-height:1.2;margin:2.6em 0 .6em;padding-top:.7em;border-top:2px solid var(--ink);
letter-spacing:-.01em}
h3{font-size:1.1rem;margin:2.1em 0 .5em}
h2,h3{scroll-margin-top:12px}
p,ul,dl{margin:.5em 0 .8em;max-width:76ch}
a{color:var(--link);text-underline-offset:2px}
code{font:.88em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.lead{color:var(--soft);margin-top:0}
nav{margin-top:1.4em}
nav ul{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:4px 18px;max-width:none;margin:.3em 0}
nav>ul>li{display:flex;flex-wrap:wrap;gap:4px 12px;width:100%;font-size:.95rem}
nav>ul>li>a{font-weight:600;min-width:8.5em}
nav ul ul{display:flex;flex:1;gap:2px 14px;margin:0}
nav ul ul a{font-weight:400}
.facts{display:flex;flex-wrap:wrap;border:solid var(--rule);border-width:1px 0 0 1px;max-width:none;margin:1.2em 0}
.facts div{flex:1 1 130px;padding:9px 14px;border:solid var(--rule);border-width:0 1px 1px 0}
.facts .wide{flex:3 1 260px}
.facts dt{color:var(--soft);font-size:.82rem}
.facts dd{margin:0;font-size:.95rem;overflow-wrap:anywhere}
.facts .short dd{white-space:nowrap;font-size:1.3rem;line-height:1.3;font-weight:650;font-variant-numeric:tabular-nums}
.warn{border-left:4px solid var(--warn);background:var(--warnbg);padding:.6em .9em;max-width:none;margin:.8em 0}
.warn p,.warn ul{margin:.2em 0;max-width:none}
.warn strong{color:var(--warn)}
.scroll{position:relative;overflow-x:auto;margin:.6em 0 .3em;border-bottom:1px solid var(--rule);
background:linear-gradient(to left,var(--bg) 35%,transparent) right/44px 100% no-repeat local,
linear-gradient(to left,var(--rule),transparent) right/18px 100% no-repeat scroll}
.scroll:focus-visible{outline:2px solid var(--link)}
table{border-collapse:collapse;font-size:.86rem;line-height:1.35;font-variant-numeric:tabular-nums;
min-width:100%}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
th,td{padding:5px 10px;text-align:right;vertical-align:top;white-space:nowrap}
thead th{border-bottom:1.5px solid var(--ink);vertical-align:bottom;white-space:normal;min-width:5.4em;font-weight:600}
tbody tr+tr>*{border-top:1px solid var(--rule)}
tbody th{font-weight:500}
th.t,td.t{text-align:left}
tbody th:first-child,thead th:first-child{position:sticky;left:0;background:var(--bg);padding-left:0}
tr.set th{font-weight:650;padding-top:1em;text-align:left;position:static}
td small{display:block;color:var(--soft);font-size:.9em}
td strong{font-weight:750}
.no{color:var(--soft);font-style:italic}
figure{margin:.8em 0 1.4em}
figure .title{font-weight:600;font-size:.95rem;margin:0 0 .3em}
.pair{display:grid;gap:0 36px;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))}
.panels{display:grid;gap:10px 22px;grid-template-columns:repeat(auto-fit,minmax(min(100%,var(--w,250px)),1fr))}
.panels svg{display:block;width:100%;height:auto;max-width:var(--max,420px);overflow:visible}
svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:2px 20px;font-size:.88rem;
margin:.2em 0 .8em;max-width:none}
.legend li{display:flex;align-items:center;gap:8px}
.legend i{flex:none;width:24px;height:0;border-top:3px solid var(--k)}
.legend .dashed{border-top-style:dashed}.legend .dotted{border-top-style:dotted}
.legend .dash-dotted{border-top-style:double;border-top-width:4px}
.legend .sparse{border-top-style:dotted;border-top-width:1px}
.legend .band{height:12px;border:0;background:var(--k);opacity:.22}
figcaption,.note{color:var(--soft);font-size:.86rem;line-height:1.5;max-width:96ch;margin:.5em 0}
figcaption p,.note p{margin:.25em 0;max-width:none}
.note b,figcaption b{color:var(--ink);font-weight:600}
.how dt{font-weight:600;margin-top:.8em}.how dd{margin:0}
details{margin:1em 0}summary{cursor:pointer;font-weight:600;font-size:.95rem}
footer{color:var(--soft);font-size:.86rem;padding-top:24px;padding-bottom:48px}
@media (max-width:600px){body{font-size:15.5px}main,header,footer{padding-left:16px;padding-right:16px}
header{padding-top:22px}
h2{margin-top:2em}th,td{padding:5px 8px}tbody th:first-child{white-space:normal;max-width:38vw;overflow-wrap:normal}
nav>ul>li>a{min-width:100%}}
@media print{:root{--bg:#fff;--ink:#000;--soft:#444;--rule:#ccc}body{font-size:10pt}nav{display:none}
figure,tr{break-inside:avoid}h2,h3{break-after:avoid}.scroll{overflow:visible}table{font-size:7pt}th,td{padding:2px 4px}
.panels{grid-template-columns:repeat(3,1fr)}a{color:inherit;text-decoration:none}}
"""
