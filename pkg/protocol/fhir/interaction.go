package fhir

// A Param is one parameter of a query or form, decoded.
type Param struct{ Name, Value string }

// A Request is what [Parse] looks at.
type Request struct {
	Method string
	// Path holds the canonical, decoded segments below the FHIR base. None, or
	// one that is empty, is the base itself.
	Path []string
	// Query holds the parameters of the query in their order.
	Query []Param
	// Header returns every value of a header field, whose name it is given in
	// canonical form ("If-None-Exist"). Nil says that there are no fields.
	Header func(name string) []string
}

// Limits bounds what a request may hold. Zero fields mean the defaults.
type Limits struct {
	// Entries is the most entries of a batch or transaction: 1000.
	Entries int
	// Depth is how deeply a body may be nested: 64. The deepest official
	// example reaches 22.
	Depth int
	// Nodes is the most values, objects and lists counted, of a body: 262,144,
	// which take 6 MiB while they are read.
	Nodes int
	// Params is the most parameters of a query and form together: 256.
	Params int
}

func (l Limits) filled() Limits {
	fill := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	fill(&l.Entries, 1000)
	fill(&l.Depth, 64)
	fill(&l.Nodes, 1<<18)
	fill(&l.Params, 256)
	return l
}

// The codes of interactions, as policies see them.
const (
	codeRead              = "read"
	codeVRead             = "vread"
	codeUpdate            = "update"
	codePatch             = "patch"
	codeDelete            = "delete"
	codeHistoryInstance   = "history-instance"
	codeHistoryType       = "history-type"
	codeHistorySystem     = "history-system"
	codeCreate            = "create"
	codeSearchType        = "search-type"
	codeSearchSystem      = "search-system"
	codeSearchCompartment = "search-compartment"
	codeCapabilities      = "capabilities"
	codeOperation         = "operation"
	codeBatch             = "batch"
	codeTransaction       = "transaction"
	codeConditionalCreate = "conditional-create"
	codeConditionalUpdate = "conditional-update"
	codeConditionalPatch  = "conditional-patch"
	codeConditionalDelete = "conditional-delete"
)

// The levels of interactions: of the server, a type, or one resource.
const (
	levelSystem   = "system"
	levelType     = "type"
	levelInstance = "instance"
)

// Body says whether an interaction's body has to be read.
type Body uint8

// What a body is for.
const (
	// BodyNone: the interaction has none.
	BodyNone Body = iota
	// BodyOptional: it tells facts that a policy set may or may not read.
	BodyOptional
	// BodyRequired: without it nobody knows what is asked.
	BodyRequired
)

// expect is what an interaction's body holds.
type expect uint8

const (
	expectNothing   expect = iota
	expectResource         // of the interaction's type
	expectPatch            // JSON Patch, or FHIRPath Patch in Parameters
	expectOperation        // Parameters or any resource, or nothing
	expectForm             // parameters of a search
	expectBundle           // batch or transaction
)

// An Interaction is one request, or one entry of a Bundle, understood.
type Interaction struct {
	code      string
	typ       string
	id        string
	version   string
	operation string // with its $
	level     string
	entry     bool

	compartment, compartmentID string

	search        search
	preconditions []string

	expect expect
	lim    Limits

	read    bool // the body was read
	body    document
	form    []Param
	about   about // what the body says
	entries []*Interaction
}

// Code returns the interaction's code, such as "read" or "search-type". Before
// its body was read, a Bundle of either kind is a "batch".
func (i *Interaction) Code() string { return i.code }

// Type returns the type of resource, or "" of what concerns the whole server.
func (i *Interaction) Type() string { return i.typ }

// Body says whether the body has to be read.
func (i *Interaction) Body() Body {
	switch i.expect {
	case expectNothing:
		return BodyNone
	case expectForm, expectBundle:
		return BodyRequired
	}
	return BodyOptional
}

// bodyFacts are the facts that only a body tells, as paths below input.
var bodyFacts = [][]string{
	{"request", "fhir", "body"},
	{"request", "fhir", "patient"},
	{"request", "fhir", "patients"},
	{"request", "fhir", "conditional_references"},
}

// BodyFacts lists the facts that only an optional body can tell, as paths below
// a policy's input. The caller must not change them.
func (i *Interaction) BodyFacts() [][]string {
	if i.Body() != BodyOptional {
		return nil
	}
	return bodyFacts
}

// Entries returns the entries of a batch or transaction, in order, once its body
// was read. Each is to be judged as a transaction of its own.
func (i *Interaction) Entries() []*Interaction { return i.entries }
