package peers

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A FHIRServer is a FHIR R4 server, in memory, over TLS.
type FHIRServer struct {
	*Process
	Addr string // host:port
	URL  string // the FHIR base
	PKI  *PKI
	// Client trusts the server and has no certificate of its own.
	Client *http.Client
}

// StartFHIR starts the FHIR server. clientCA is a PEM file with the authorities
// whose certificates callers must have, or "" if they need none.
func StartFHIR(t testing.TB, clientCA string) *FHIRServer {
	t.Helper()
	Need(t, "fhir-server")
	dir, err := home()
	if err != nil {
		t.Fatal(err)
	}
	s := &FHIRServer{PKI: NewPKI(t)}
	env := []string{"PEER_CERT=" + s.PKI.CertFile, "PEER_KEY=" + s.PKI.KeyFile, "PEER_PORT=0", "PEER_CLIENT_CA=" + clientCA}
	s.Process = Start(t, filepath.Join(dir, "fhir-server"), env, "node", "server.mjs")
	var said struct{ Port int }
	s.Ready(func() bool {
		line, _, whole := strings.Cut(s.Output(), "\n")
		return whole && json.Unmarshal([]byte(line), &said) == nil && said.Port > 0
	})
	s.Addr = fmt.Sprintf("127.0.0.1:%d", said.Port)
	s.URL = "https://" + s.Addr + "/fhir"
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.PKI.Roots, MinVersion: tls.VersionTLS12}}
	t.Cleanup(tr.CloseIdleConnections)
	s.Client = &http.Client{Transport: tr, Timeout: patience}
	return s
}

// An Arrival is a request that reached the FHIR server.
type Arrival struct {
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers"` // names in lower case
	Body    string            `json:"body"`
}

// Arrivals returns what reached the server since it was started or reset, oldest
// first. It can not be asked of a server that wants client certificates.
func (s *FHIRServer) Arrivals() []Arrival {
	s.t.Helper()
	var a []Arrival
	s.control(http.MethodGet, &a)
	return a
}

// Reset makes the server forget what arrived, and every resource.
func (s *FHIRServer) Reset() {
	s.t.Helper()
	s.control(http.MethodDelete, new([]Arrival))
}

func (s *FHIRServer) control(method string, into *[]Arrival) {
	s.t.Helper()
	req, err := http.NewRequest(method, "https://"+s.Addr+"/peer/requests", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		s.t.Fatal(err)
	}
}

// An Example is one of the official example resources of FHIR R4.
type Example struct {
	Name string // "Observation-example"
	Type string // "Observation"
	Body []byte
}

// Examples returns every official example, in the order of their names: 5,306
// resources of 140 types, definitions among them. It needs fhir-examples.
func Examples(t testing.TB) iter.Seq[Example] {
	t.Helper()
	Need(t, "fhir-examples")
	dir, err := home()
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "fhir-examples", "node_modules", "hl7.fhir.r4.examples", "*-*.json"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	return func(yield func(Example) bool) {
		for _, name := range names {
			e := Example{Name: strings.TrimSuffix(filepath.Base(name), ".json")}
			var typed struct {
				ResourceType string `json:"resourceType"`
			}
			if e.Body, err = os.ReadFile(name); err == nil {
				err = json.Unmarshal(e.Body, &typed)
			}
			if err != nil {
				t.Errorf("%s: %v", e.Name, err)
				return
			}
			if e.Type = typed.ResourceType; e.Type != "" && !yield(e) {
				return
			}
		}
	}
}
