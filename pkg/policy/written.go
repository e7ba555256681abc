package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

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
	var wrong []error
	leaves(ve, func(leaf *jsonschema.ValidationError, unknown []string, says string) {
		at := strings.Join(leaf.InstanceLocation, ".")
		if len(unknown) == 0 {
			wrong = append(wrong, fmt.Errorf("%s: %s", at, says))
		}
		for _, p := range unknown {
			wrong = append(wrong, fmt.Errorf("%s has no field %q%s", at, p, hint(schema, leaf.InstanceLocation, p)))
		}
	})
	return errors.Join(wrong...)
}
