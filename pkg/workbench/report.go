package workbench

import (
	"fmt"
	"html/template"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Notes says in sentences what a reader of the report should know beside its
// numbers. It is empty if every record was made again exactly.
func (r *ReplayReport) Notes() (out []string) {
	note := func(n int, format string, args ...any) {
		if n > 0 {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	note(r.LeftOut.Refused, "%d requests were refused before a policy was asked, because they could not be understood", r.LeftOut.Refused)
	note(r.LeftOut.Gateway, "%d were refused by the gateway itself, for the device's status or a failure of its own", r.LeftOut.Gateway)
	note(r.LeftOut.Omitted, "%d are recorded without their facts, for their size", r.LeftOut.Omitted)
	note(r.LeftOut.Unread, "%d can not be decided on: a set reads in their bodies what no rule asked for then, and what is not recorded; a route with mode: observe shows it on live traffic", r.LeftOut.Unread)
	note(r.LeftOut.Unreadable, "%d LINES COULD NOT BE READ; see anteroom audit verify", r.LeftOut.Unreadable)
	note(r.OtherRevisions, "%d were decided by another set than the one in force now, %d of them otherwise than it would now", r.OtherRevisions, r.Otherwise)
	note(r.RegistryChanged, "of %d the device's record has changed since; its facts of now were used", r.RegistryChanged)
	note(r.RegistryAbsent, "of %d the device is not in the registry any more", r.RegistryAbsent)
	note(r.Drift, "%d could not be made again: the set that decided them decides otherwise now, on what the record holds (such as %s)", r.Drift, strings.Join(r.DriftExamples, ", "))
	return out
}

// Readable returns a text as it can be shown to people: characters that are not
// seen themselves but change how others are, on a terminal or on a page, are
// written as Go writes them in a string. Lines and tabs stay.
func Readable(s string) string {
	plain := func(r rune) bool { return r == '\n' || r == '\t' || r != utf8.RuneError && unicode.IsPrint(r) }
	if strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case plain(r):
			b.WriteString(s[:n])
		default:
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
		s = s[n:]
	}
	return b.String()
}

// WriteHTML writes the report as one page that needs nothing beside itself.
func WriteHTML(w io.Writer, r *ReplayReport) error { return page.Execute(w, r) }

// page has no script and names nothing that a browser would fetch.
var page = template.Must(template.New("replay").Funcs(template.FuncMap{"readable": Readable}).Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Policy replay: {{.Changed}} of {{.Decisions}} decisions would change</title>
<style>
:root{--ink:#1a1f24;--paper:#fff;--soft:#5b6670;--line:#d5dbe0;--deny:#a11;--allow:#8a5a00}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8eb;--paper:#14181c;--soft:#98a3ad;--line:#333c44;--deny:#ff8a80;--allow:#e8b35a}}
body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:var(--ink);background:var(--paper)}
h1,h2{line-height:1.2}h2{margin-top:2rem}
table{border-collapse:collapse;width:100%;margin:1rem 0}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:break-word;max-width:28rem}
th{color:var(--soft);font-weight:600;font-size:.85em;white-space:nowrap}
td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
td.k{white-space:nowrap;font-weight:600}td code{white-space:nowrap}td.e code{display:block}code{font-size:.85em;overflow-wrap:anywhere;color:var(--soft)}
.would-deny,.fault{color:var(--deny)}.would-allow{color:var(--allow)}
</style>
<h1>Policy replay</h1>
<p><b>{{.Decisions}}</b> decisions made again{{if .Decisions}}, recorded from {{.First.Format "2006-01-02 15:04:05 MST"}} to {{.Last.Format "2006-01-02 15:04:05 MST"}}{{end}}: <b>{{.Changed}}</b> would change{{if .Reworded}}, {{.Reworded}} only their reasons{{end}}.</p>
<table><tr><th>candidate<td>{{readable .Candidate.Dir}} <code>{{.Candidate.Revision}}</code>
<tr><th>in force<td>{{readable .Current.Dir}} <code>{{.Current.Revision}}</code></table>
{{if .Changes}}<h2>What would change</h2>
<table><tr><th>change<th class="n">count<th class="n">devices<th>class<th>what<th>rule<th>such as
{{range .Changes}}<tr><td class="k {{.Change}}">{{.Change}}<td class="n">{{.Count}}<td class="n">{{.Devices}}<td>{{readable .Class}}<td>{{readable .What}}<td>{{readable .Rule}}<td class="e">{{range .Examples}}<code>{{readable .}}</code>{{end}}
{{end}}</table>
<h2>Devices</h2>
<table><tr><th>device<th>class<th class="n">changes<th>
{{range .Devices}}<tr><td>{{readable .Device}}<td>{{readable .Class}}<td class="n">{{.Total}}<td>{{range $k, $n := .Changes}}{{$k}} {{$n}} {{end}}
{{end}}</table>{{else}}<p>Nothing.</p>{{end}}
{{with .Notes}}<h2>Notes</h2><ul>{{range .}}<li>{{readable .}}{{end}}</ul>{{end}}
</html>
`))
