package policy

import (
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// removed lists OPA's built-in functions that a policy set here cannot use, and
// why. What remains only computes: it reads no file and no network, knows no
// secret, and gives the same answer to the same question. The one exception is
// time.now_ns, which returns the Question's Now; a set that reads it is correct,
// but its decisions cannot be remembered.
var removed = map[string]string{
	"http.send":              "a decision must not wait for, or tell anything to, another system",
	"net.lookup_ip_addr":     "a decision must not depend on DNS",
	"providers.aws.sign_req": "a policy holds no credentials",
	"opa.runtime":            "it shows the gateway's environment, where secrets may be",
	"rego.parse_module":      "policy is loaded from files, not made from input",

	"rand.intn":    "a decision must not depend on chance",
	"uuid.rfc4122": "a decision must not depend on chance",

	"io.jwt.decode_verify":   "it reads the clock unseen; identity is the certificate's alone",
	"io.jwt.encode_sign":     "a policy holds no signing keys",
	"io.jwt.encode_sign_raw": "a policy holds no signing keys",

	"crypto.x509.parse_and_verify_certificates":              "it reads the clock unseen; certificates are verified before a policy is asked",
	"crypto.x509.parse_and_verify_certificates_with_options": "it reads the clock unseen; certificates are verified before a policy is asked",
	"crypto.x509.parse_keypair":                              "a policy holds no private keys",
	"crypto.x509.parse_rsa_private_key":                      "a policy holds no private keys",
	"crypto.parse_private_keys":                              "a policy holds no private keys",

	"json.match_schema":       "it can be led to fetch a schema, and cannot be interrupted",
	"json.verify_schema":      "it can be led to fetch a schema, and cannot be interrupted",
	"strings.render_template": "it runs a second language that the time limit cannot interrupt",
	"regex.globs_match":       "its cost can grow exponentially and the time limit cannot interrupt it",
	"net.cidr_expand":         "it lists every address of a network; use net.cidr_contains",
	"trace":                   "it shows values of the input, which may be a patient's",
}

// capabilities returns what a policy set may use: Rego v1 and OPA's built-in
// functions without the removed ones and the deprecated ones.
func capabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion(ast.CapabilitiesRegoVersion(ast.RegoV1))
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		_, gone := removed[b.Name]
		return gone
	})
	// OPA is still trying these out: its planner is wrong about a "not" with a body in
	// a loop, and what a rule reads in there would have to be found first.
	c.FutureKeywords = slices.DeleteFunc(c.FutureKeywords, func(k string) bool { return k == "not" || k == "and" || k == "or" })
	// A schema's $ref must not be fetched either. Nil would mean any host.
	c.AllowNet = []string{}
	return c
}

// removedUses reports uses of removed functions with the reason, because OPA
// itself only says that it knows no such function.
func removedUses(m *ast.Module, name string, ps *problems) (found bool) {
	ast.WalkTerms(m, func(t *ast.Term) bool {
		ref, ok := t.Value.(ast.Ref)
		if !ok {
			return false
		}
		if why, gone := removed[ref.String()]; gone {
			found = true
			line, col := 0, 0
			if t.Location != nil {
				line, col = t.Location.Row, t.Location.Col
			}
			*ps = append(*ps, Problem{File: name, Line: line, Column: col,
				Message: fmt.Sprintf("%s cannot be used here: %s", ref, why)})
		}
		return false
	})
	return found
}
