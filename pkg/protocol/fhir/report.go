package fhir

import "slices"

// reportTypes are the resources in which devices tell alarms and measurements, the
// same that the shipped policies let patient monitors create.
var reportTypes = []string{"Communication", "DetectedIssue", "Flag", "Observation"}

// maxReport is the most entries of a Bundle that is a report: an alarm with what was
// measured.
const maxReport = 8

// Tells reports whether the interaction may be a report, as far as can be said without
// its body, which can be read then.
func (i *Interaction) Tells(contentType string) bool {
	media, ok := mediaType(contentType)
	return ok && (media == "application/fhir+json" || media == "application/json") && i.code == codeCreate && slices.Contains(reportTypes, i.typ)
}

// Report reports whether the interaction is a report: by it a device tells something
// new, such as an alarm or a measurement, and neither asks for nor changes nor removes
// what is there. That is the creation of what those are told in, without a parameter,
// without a condition, and without a reference that the server has to search for; or a
// small Bundle of nothing else. Without its body nothing is known to be one.
func (i *Interaction) Report() bool {
	switch {
	case !i.read:
		return false
	case i.expect == expectBundle:
		return len(i.entries) > 0 && len(i.entries) <= maxReport && !slices.ContainsFunc(i.entries, func(e *Interaction) bool { return !e.Report() })
	}
	s := &i.search
	return i.code == codeCreate && !i.about.asks && slices.Contains(reportTypes, i.typ) &&
		len(s.params)+len(s.results)+len(s.includes)+len(s.unknown)+len(i.preconditions)+len(i.about.conditional) == 0
}
