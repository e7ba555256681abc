package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/anteroom-iomt/anteroom/policies"
)

// CheckWritten compares an input, or parts of one, that a person wrote with the
// shipped schema of the input. A misspelt fact would otherwise be one that is not
// there, and the answer one to another question than was meant.
func CheckWritten(input []byte) error {
	body, err := fs.ReadFile(policies.FS, inputSchema)
	if err != nil {
		return err
	}
	schema, err := dataSchemaOf(body)
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(input))
	if err != nil {
		return err
	}
	err = schema.Validate(doc)
	ve, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return err
	}
	return errors.Join(amiss(schema, ve)...)
}

// amiss says what the leaves of a validation error say.
func amiss(schema *jsonschema.Schema, ve *jsonschema.ValidationError) (out []error) {
	if len(ve.Causes) > 0 {
		for _, c := range ve.Causes {
			out = append(out, amiss(schema, c)...)
		}
		return out
	}
	at := strings.Join(ve.InstanceLocation, ".")
	if k, ok := ve.ErrorKind.(*kind.AdditionalProperties); ok {
		for _, p := range k.Properties {
			out = append(out, fmt.Errorf("%s has no field %q%s", at, p, hint(schema, ve.InstanceLocation, p)))
		}
		return out
	}
	return append(out, fmt.Errorf("%s: %s", at, ve.ErrorKind.LocalizedString(message.NewPrinter(language.English))))
}
