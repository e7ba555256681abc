package workbench

import (
	"fmt"
	"html/template"
	"io"
	"strings"
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
	note(r.LeftOut.Gateway, "%d were refused by the gateway itself, for the device's status, for a limit or for a failure of its own", r.LeftOut.Gateway)
	note(r.LeftOut.Omitted, "%d are recorded without their facts, for their size", r.LeftOut.Omitted)
	note(r.LeftOut.Unreadable, "%d LINES COULD NOT BE READ; see anteroom audit verify", r.LeftOut.Unreadable)
	note(r.OtherRevisions, "%d were decided by another set than the one in force now, %d of them otherwise than it would now", r.OtherRevisions, r.Otherwise)
	note(r.RegistryChanged, "of %d the device's record has changed since; its facts of now were used", r.RegistryChanged)
	note(r.RegistryAbsent, "of %d the device is not in the registry any more", r.RegistryAbsent)
	note(r.Drift, "%d could not be made again: the set that decided them decides otherwise now, on what the record holds (such as %s)", r.Drift, strings.Join(r.DriftExamples, ", "))
	return out
}

// WriteHTML writes the report as one page that needs nothing beside itself.
func WriteHTML(w io.Writer, r *ReplayReport) error { return page.Execute(w, r) }

// page has no script and names nothing that a browser would fetch.
var page = template.Must(template.New("replay").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Policy replay</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1a1f24;background:#fff}
table{border-collapse:collapse;width:100%;margin:1rem 0}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d5dbe0;vertical-align:top}
td.n,th.n{text-align:right}code{font-size:.9em;word-break:break-all}.would-deny,.fault{color:#a11}.would-allow{color:#8a5a00}
</style>
<h1>Policy replay</h1>
<p><b>{{.Decisions}}</b> decisions made again{{if .Decisions}}, recorded from {{.First.Format "2006-01-02 15:04:05 MST"}} to {{.Last.Format "2006-01-02 15:04:05 MST"}}{{end}}: <b>{{.Changed}}</b> would change{{if .Reworded}}, {{.Reworded}} only their reasons{{end}}.</p>
<p>Candidate {{.Candidate.Dir}} <code>{{.Candidate.Revision}}</code><br>In force {{.Current.Dir}} <code>{{.Current.Revision}}</code></p>
{{if .Changes}}<h2>What would change</h2>
<table><tr><th>change<th class="n">count<th class="n">devices<th>class<th>what<th>rule<th>such as
{{range .Changes}}<tr><td class="{{.Change}}">{{.Change}}<td class="n">{{.Count}}<td class="n">{{.Devices}}<td>{{.Class}}<td>{{.What}}<td>{{.Rule}}<td>{{range .Examples}}<code>{{.}}</code> {{end}}
{{end}}</table>
<h2>Devices</h2>
<table><tr><th>device<th>class<th class="n">changes<th>
{{range .Devices}}<tr><td>{{.Device}}<td>{{.Class}}<td class="n">{{.Total}}<td>{{range $k, $n := .Changes}}{{$k}} {{$n}} {{end}}
{{end}}</table>{{else}}<p>Nothing.</p>{{end}}
{{with .Notes}}<h2>Notes</h2><ul>{{range .}}<li>{{.}}{{end}}</ul>{{end}}
</html>
`))
