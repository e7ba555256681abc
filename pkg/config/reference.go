package config

import (
	"fmt"
	"reflect"
	"strings"
)

// Reference returns the configuration reference as Markdown, made from the tags
// of [File]. docs/configuration.md is its output; a test keeps it so.
func Reference() string {
	var b strings.Builder
	b.WriteString(`# Configuration

<!-- Made from the tags in pkg/config/types.go: go test ./pkg/config -update -->

Anteroom reads one YAML file, ` + "`anteroom.yaml`" + `. ` + "`anteroom init`" + ` writes one that works, ` + "`anteroom check`" + ` says what is
wrong with it, with file and line, and saving it puts it into force while the gateway runs: as one swap, or, if anything
is wrong, not at all. Unknown keys, repeated keys and values of the wrong type are errors. Time spans are written
` + "`90s`, `10m`, `720h`" + `; sizes ` + "`64KiB`, `4MiB`, `1GiB`" + `. Relative paths are relative to the file.

Not changed by a reload, but by a restart: trust_domain, state_dir, audit, telemetry.address, facility.timezone, policy.source, policy.bundle, enrolment (but its quota and grace), ca.urls, revocation.

`)
	return b.String() + Tables(reflect.TypeFor[File]())
}

// Tables returns tables, in Markdown, of the settings of a struct that [Decode]
// fills, and of its parts.
func Tables(t reflect.Type) string {
	var b strings.Builder
	section(&b, t, "", 2)
	return b.String()
}

// section writes a table of a struct's settings, and then its parts.
func section(b *strings.Builder, t reflect.Type, path string, level int) {
	type part struct {
		path string
		t    reflect.Type
		doc  string
	}
	var parts []part
	if path != "" {
		fmt.Fprintf(b, "%s `%s`\n\n", strings.Repeat("#", min(level, 4)), path)
	} else {
		b.WriteString("## The file\n\n")
	}
	b.WriteString("| setting | type | default | what it does |\n|---|---|---|---|\n")
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("yaml")
		if name == "-" {
			continue
		}
		typ, elem := typeName(f)
		def := f.Tag.Get("default")
		switch {
		case f.Tag.Get("required") == "true":
			def = "**required**"
		case def != "":
			def = "`" + def + "`"
		}
		doc := strings.ReplaceAll(f.Tag.Get("doc"), "|", "\\|")
		if elem != nil {
			sub := name
			if path != "" {
				sub = path + "." + name
			}
			if f.Type.Kind() == reflect.Slice {
				sub += "[]"
			}
			parts = append(parts, part{sub, elem, doc})
			doc += " See below."
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", name, typ, def, doc)
	}
	b.WriteString("\n")
	for _, p := range parts {
		section(b, p.t, p.path, level+strings.Count(p.path, ".")-strings.Count(path, "."))
	}
}

// typeName names a setting's type for people, and returns the struct it is made
// of, if it is.
func typeName(f reflect.StructField) (string, reflect.Type) {
	if enum := f.Tag.Get("enum"); enum != "" {
		return "`" + strings.ReplaceAll(enum, ",", "`, `") + "`", nil
	}
	t := f.Type
	switch {
	case t == durationType:
		return "time span", nil
	case t == sizeType:
		return "size", nil
	case t.Kind() == reflect.Struct:
		return "section", t
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		return "list of sections", t.Elem()
	case t.Kind() == reflect.Slice:
		return "list of text", nil
	case t.Kind() == reflect.Map:
		return "time spans by name", nil
	case t.Kind() == reflect.Bool:
		return "true or false", nil
	case t.Kind() == reflect.Int:
		return "number", nil
	}
	return "text", nil
}
