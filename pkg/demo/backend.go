package demo

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// maxBody bounds what the demo's backend reads; its devices send a few kB.
const maxBody = 1 << 20

// backend is the clinical system behind the gateway: a FHIR server that keeps
// what it is given in memory, and a PACS that counts the studies it is sent. It
// trusts whoever the gateway lets through, as such systems do, and remembers
// what it was asked, so that the demo can show that nothing else arrived.
type backend struct {
	mu        sync.Mutex
	resources map[string]json.RawMessage // by "Type/id"
	next      int
	seen      map[string]int // requests by device id
	studies   int
}

func newBackend() *backend {
	return &backend{resources: map[string]json.RawMessage{}, seen: map[string]int{}}
}

// put files a resource under its type and id.
func (b *backend) put(typ, id, body string) {
	b.resources[typ+"/"+id] = json.RawMessage(body)
}

// from returns how many requests of a device arrived.
func (b *backend) from(device string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen[device]
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen[r.Header.Get("X-Anteroom-Device-Id")]++
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/dicom-web/") {
		b.studies++
		answer(w, http.StatusOK, "application/dicom+json", []byte(`{"00081199":{"vr":"SQ","Value":[]}}`))
		return
	}
	path := strings.Split(strings.Trim(strings.TrimPrefix(r.URL.Path, "/fhir"), "/"), "/")
	switch {
	case r.Method == http.MethodPost && path[0] == "":
		b.bundle(w, body)
	case r.Method == http.MethodPost && len(path) == 1:
		answer(w, http.StatusCreated, "application/fhir+json", b.create(path[0], body))
	case r.Method == http.MethodPut && len(path) == 2:
		b.put(path[0], path[1], string(body))
		answer(w, http.StatusOK, "application/fhir+json", body)
	case r.Method == http.MethodGet && len(path) == 2:
		res, ok := b.resources[path[0]+"/"+path[1]]
		if !ok {
			answer(w, http.StatusNotFound, "application/fhir+json", []byte(`{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"not-found"}]}`))
			return
		}
		answer(w, http.StatusOK, "application/fhir+json", res)
	case r.Method == http.MethodGet && len(path) == 1:
		answer(w, http.StatusOK, "application/fhir+json", b.search(path[0]))
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

// create files a new resource and returns it with its id.
func (b *backend) create(typ string, body []byte) []byte {
	b.next++
	id := strconv.Itoa(b.next)
	var res map[string]any
	if json.Unmarshal(body, &res) != nil || res == nil {
		res = map[string]any{"resourceType": typ}
	}
	res["id"] = id
	out, err := json.Marshal(res)
	if err != nil {
		out = []byte(`{}`)
	}
	b.put(typ, id, string(out))
	return out
}

// bundle answers a batch, entry by entry.
func (b *backend) bundle(w http.ResponseWriter, body []byte) {
	var in struct {
		Type  string
		Entry []struct {
			Resource json.RawMessage
			Request  struct{ Method, URL string }
		}
	}
	if err := json.Unmarshal(body, &in); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	type response struct {
		Status string `json:"status"`
	}
	out := struct {
		ResourceType string                `json:"resourceType"`
		Type         string                `json:"type"`
		Entry        []map[string]response `json:"entry"`
	}{ResourceType: "Bundle", Type: in.Type + "-response"}
	for _, e := range in.Entry {
		b.create(e.Request.URL, e.Resource)
		out.Entry = append(out.Entry, map[string]response{"response": {Status: "201 Created"}})
	}
	res, err := json.Marshal(out)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	answer(w, http.StatusOK, "application/fhir+json", res)
}

// search returns every resource of a type.
func (b *backend) search(typ string) []byte {
	type entry struct {
		Resource json.RawMessage `json:"resource"`
	}
	out := struct {
		ResourceType string  `json:"resourceType"`
		Type         string  `json:"type"`
		Entry        []entry `json:"entry,omitempty"`
	}{ResourceType: "Bundle", Type: "searchset"}
	for name, res := range b.resources {
		if strings.HasPrefix(name, typ+"/") {
			out.Entry = append(out.Entry, entry{res})
		}
	}
	res, err := json.Marshal(out)
	if err != nil {
		return []byte(`{}`)
	}
	return res
}

func answer(w http.ResponseWriter, status int, typ string, body []byte) {
	w.Header().Set("Content-Type", typ)
	w.WriteHeader(status)
	w.Write(body)
}
