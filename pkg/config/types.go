package config

import "time"

// A File is the whole configuration, as written in anteroom.yaml. Zero values
// mean the documented defaults; [Load] fills them in, so that code which is
// handed a File never has to know a default.
//
// The doc tags are the configuration reference: docs/configuration.md is
// generated from them.
type File struct {
	Version      int        `yaml:"version" doc:"Format of this file. Always 1." default:"1"`
	TrustDomain  string     `yaml:"trust_domain" required:"true" doc:"The name devices' identities live under: spiffe://<trust_domain>/device/<id>. Lower-case DNS name; cannot change once devices are enrolled."`
	Organisation string     `yaml:"organisation" required:"true" doc:"Name of the organisation, as it appears in certificates."`
	StateDir     string     `yaml:"state_dir" default:"state" doc:"Where the CA, the registry and the audit log rest. Relative paths are relative to this file. One process owns it at a time."`
	Facility     Facility   `yaml:"facility" doc:"Facts about the place."`
	CA           CA         `yaml:"ca" doc:"The embedded certificate authority."`
	Policy       Policy     `yaml:"policy" doc:"The policy set that decides."`
	BreakGlass   BreakGlass `yaml:"break_glass" doc:"Emergency grants: for some minutes, named devices may do what data.break_glass of the policy set lists (anteroom break-glass)."`
	Audit        Audit      `yaml:"audit" doc:"The tamper-evident record."`
	Telemetry    Telemetry  `yaml:"telemetry" doc:"Metrics, health and logs."`
	Enrolment    Enrolment  `yaml:"enrolment" doc:"How devices come to their certificates by themselves: a listener of its own, off by default, and what it and every other way in may give."`
	Revocation   Revocation `yaml:"revocation" doc:"How others than the gateway learn that a certificate was revoked. The gateway itself asks its registry, which knows at once."`
	Findings     Findings   `yaml:"findings" doc:"What the gateway finds out about devices by itself (anteroom device findings)."`
	Listeners    []Listener `yaml:"listeners" required:"true" doc:"Addresses devices connect to. A client certificate of ours is required on every one; there is no way to switch that off."`
	Routes       []Route    `yaml:"routes" doc:"What traffic is matched to, by listener, host and path prefix; the longest prefix wins. Unmatched traffic is denied and recorded."`
	Backends     []Backend  `yaml:"backends" doc:"The clinical and cloud systems behind the gateway."`

	// Path is the file this configuration was read from.
	Path string `yaml:"-"`
}

// Facility holds facts about the place the gateway stands in.
type Facility struct {
	Timezone string `yaml:"timezone" default:"UTC" doc:"IANA time zone of input.time (weekday, hour, minute) in policies."`
}

// CA configures the embedded certificate authority.
type CA struct {
	Passphrase    Secret              `yaml:"passphrase" doc:"Decrypts the intermediate CA's key. Exactly one source."`
	TTL           Duration            `yaml:"ttl" default:"8760h" doc:"Lifetime of a device certificate when neither its class nor the command says another. At most the intermediate's own."`
	ClassTTL      map[string]Duration `yaml:"class_ttl" doc:"Lifetime of device certificates by class."`
	MaxTTL        Duration            `yaml:"max_ttl" default:"17520h" doc:"The longest lifetime that may be asked for (IHE ITI-19 recommends at most two years)."`
	Backdate      Duration            `yaml:"backdate" default:"24h" doc:"How far a device certificate's not-before lies in the past, for devices whose clock is slow."`
	ClassBackdate map[string]Duration `yaml:"class_backdate" doc:"The same by class; it takes the place of backdate. A class whose devices lose their clock with their battery needs more, one that is told the time in each handshake nothing."`
	KMS           string              `yaml:"kms" doc:"URI of a PKCS#11 module, such as pkcs11:module-path=/usr/lib/softhsm/libsofthsm2.so;token=anteroom. The key of the next intermediate (anteroom ca rotate) is made in it and never leaves it. Needs a build with cgo and the tag pkcs11; the default binary is static, and says so."`
	PIN           Secret              `yaml:"pin" doc:"kms: the PIN of the module's user. Exactly one source."`
	URLs          CAURLs              `yaml:"urls" doc:"What certificates name for who checks them: nothing, unless it is set. Certificates that were issued before do not change."`
}

// MaxBackdate is the most that a class's certificates are back-dated: to before the
// CA's own certificate none is anyway.
const MaxBackdate = 366 * 24 * time.Hour

// CAURLs are where others find out about revocations.
type CAURLs struct {
	CRL  string `yaml:"crl" doc:"http URL of the revocation list (CRL distribution point). On the revocation listener the path is /ca.crl."`
	OCSP string `yaml:"ocsp" doc:"http URL of the OCSP responder. On the revocation listener the path is /ocsp."`
}

// Secret says where a secret comes from. Exactly one field is set.
type Secret struct {
	File       string `yaml:"file" doc:"A file that only its owner can read (0600); its trailing line break is not part of the secret. Relative paths are relative to the configuration."`
	Env        string `yaml:"env" doc:"Name of an environment variable."`
	Credential string `yaml:"credential" doc:"Name of a systemd credential (LoadCredential=, LoadCredentialEncrypted=)."`
}

// Policy configures the policy set that decides.
type Policy struct {
	Enforce     string       `yaml:"enforce" default:"policies" doc:"Directory of Rego and YAML/JSON data files. Watched: a good change takes effect at once, a bad one changes nothing and is logged with file and line."`
	Shadow      string       `yaml:"shadow" doc:"Directory of a second policy set that decides nothing: it is evaluated beside the enforced one on live traffic, and where the two differ is counted (anteroom policy status). Watched like the enforced one; a bad set is reported and compared with nothing."`
	ShadowShare int          `yaml:"shadow_share" default:"10" doc:"How much of one processor core, in percent, the shadow set's evaluation may take. What does not fit in is not compared, and counted."`
	Cache       string       `yaml:"cache" default:"on" enum:"on,off" doc:"Remember decisions: an equal question under the same set and the same facts about the device has the same answer. It is exact; off is for measuring, and for who would rather not trust it."`
	Timeout     Duration     `yaml:"timeout" default:"100ms" doc:"The longest one evaluation may take; past it the answer is deny."`
	Source      string       `yaml:"source" default:"directory" enum:"directory,pushed,bundle" doc:"Where the set in force comes from. directory: enforce. pushed: the last revision that 'anteroom policy push' made; until there is one, enforce. bundle: a bundle server; until its first bundle came, nothing is allowed. Changing it needs a restart."`
	Bundle      PolicyBundle `yaml:"bundle" doc:"source bundle: the bundle server."`
	History     int          `yaml:"history" default:"100" doc:"How many pushed revisions are kept. The one in force is never forgotten."`
	MaxSize     Size         `yaml:"max_size" default:"16MiB" doc:"The largest policy set, all files together, that is loaded."`
}

// PolicyBundle configures a server that offers the policy set as a bundle in
// OPA's format.
type PolicyBundle struct {
	URL              string   `yaml:"url" doc:"https URL of the bundle. It is asked with If-None-Match, and the last good bundle is kept in state_dir, so that a restart without the server still enforces it."`
	Key              string   `yaml:"key" doc:"PEM file with the public key, or the certificate, that bundles are signed with."`
	KeyID            string   `yaml:"key_id" doc:"Key id that signatures must name. Default: any."`
	Scope            string   `yaml:"scope" doc:"Scope that signatures must have. Default: none."`
	InsecureUnsigned bool     `yaml:"insecure_unsigned" default:"false" doc:"Take bundles that nobody signed. Whoever has the server, or its certificate, then decides what is allowed."`
	Interval         Duration `yaml:"interval" default:"1m" doc:"The longest time between two questions to the server; each is asked after half of it at the earliest."`
	CAFile           string   `yaml:"ca_file" doc:"PEM roots the server's certificate is checked against. Default: the system's."`
	Token            Secret   `yaml:"token" doc:"Bearer token to send."`
}

// BreakGlass configures emergency grants.
type BreakGlass struct {
	MaxTime    Duration `yaml:"max_time" default:"60m" doc:"The longest a grant may last; at most 8h."`
	TwoPersons bool     `yaml:"two_persons" default:"true" doc:"A second operator must approve each grant before it is in force. With false a security officer may open one alone (--alone), for a night with nobody else; another person must review it afterwards, as every grant. Shown as a warning."`
}

// MaxBreakGlass is the longest an emergency grant may last, whatever is configured: a
// shift. What takes longer is no emergency but a change of policy.
const MaxBreakGlass = 8 * time.Hour

// Audit configures the tamper-evident record.
type Audit struct {
	Dir          string   `yaml:"dir" doc:"Where records are written. Default: audit below state_dir."`
	BlockRecords int      `yaml:"block_records" default:"16384" doc:"A block is sealed after this many records …"`
	BlockTime    Duration `yaml:"block_time" default:"1s" doc:"… or after this time, whichever comes first."`
	FlushTime    Duration `yaml:"flush_time" default:"50ms" doc:"How long a record may wait before it is written and synced to disk: what a crash can lose."`
	Buffer       Size     `yaml:"buffer" default:"8MiB" doc:"Records waiting to be written. When it is full requests wait; nothing is dropped."`
	RotateSize   Size     `yaml:"rotate_size" default:"256MiB" doc:"A segment file is closed and a new one begun at this size."`
	MinFree      Size     `yaml:"min_free" default:"64MiB" doc:"With less free disk than this the log refuses records, and so every transaction, rather than lose one."`
	Identifiers  string   `yaml:"identifiers" default:"pseudonym" enum:"pseudonym,clear" doc:"How identifiers of patients are recorded: as keyed pseudonyms, or in the clear."`
}

// Telemetry configures metrics, health and logs.
type Telemetry struct {
	Address   string `yaml:"address" default:"127.0.0.1:9464" doc:"Where /metrics, /healthz and /readyz are served, in plain HTTP. 'off' serves nothing."`
	LogLevel  string `yaml:"log_level" default:"info" enum:"debug,info,warn,error" doc:"Lowest level that is logged."`
	LogFormat string `yaml:"log_format" default:"text" enum:"text,json" doc:"Form of a log line, on standard error."`
}

// A Listener is an address devices connect to.
type Listener struct {
	Name          string            `yaml:"name" required:"true" doc:"Name of the listener, as policies see it in input.session.listener."`
	Address       string            `yaml:"address" required:"true" doc:"host:port to listen on."`
	Protocol      string            `yaml:"protocol" default:"http" enum:"http" doc:"What devices speak here."`
	Hosts         []string          `yaml:"hosts" required:"true" doc:"DNS names and IP addresses devices use for this listener: the names in its certificate, and the only Host values accepted."`
	Certificate   ServerCertificate `yaml:"certificate" doc:"The gateway's own certificate on this listener."`
	TLS           ListenerTLS       `yaml:"tls" doc:"TLS versions and suites."`
	ProxyProtocol ProxyProtocol     `yaml:"proxy_protocol" doc:"PROXY protocol version 2 from load balancers in front."`
	Limits        Limits            `yaml:"limits" doc:"What one connection and one request may take."`
}

// ServerCertificate says where a listener's own certificate comes from.
type ServerCertificate struct {
	Source      string   `yaml:"source" default:"embedded" enum:"embedded,acme,files" doc:"embedded: the embedded CA, renewed by itself. acme: an ACME CA. files: certificate and key files, read again when they change."`
	TTL         Duration `yaml:"ttl" default:"720h" doc:"Lifetime of a certificate from the embedded CA; renewed after two thirds of it."`
	Directory   string   `yaml:"directory" doc:"acme: directory URL of the CA."`
	Email       string   `yaml:"email" doc:"acme: account contact."`
	CAFile      string   `yaml:"ca_file" doc:"acme: PEM roots the directory's own certificate is checked against. Default: the system's."`
	Account     Account  `yaml:"account" doc:"acme: the external account that the CA binds its accounts to, if it wants one. Another gateway's enrolment listener does: anteroom device token ID --acme."`
	HTTPAddress string   `yaml:"http_address" doc:"acme: host:port that answers http-01 challenges. Default: tls-alpn-01 on the listener itself."`
	Certificate string   `yaml:"certificate" doc:"files: PEM certificate chain."`
	Key         string   `yaml:"key" doc:"files: PEM private key."`
}

// An Account is an external account of an ACME CA (RFC 8555 §7.3.4). It is needed
// once, when the gateway's account is opened.
type Account struct {
	KeyID   string `yaml:"key_id" doc:"Its key id."`
	HMACKey Secret `yaml:"hmac_key" doc:"Its HMAC key, in base64url. Exactly one source."`
}

// ListenerTLS selects TLS versions and suites.
type ListenerTLS struct {
	Profile string `yaml:"profile" default:"modern" enum:"modern,legacy" doc:"modern: TLS 1.3, and 1.2 with AEAD suites and ECDHE. legacy: also TLS 1.2 with CBC suites and RSA key exchange, and an RSA server certificate, for devices that know nothing else; logged as a warning."`
	Tickets bool   `yaml:"tickets" default:"true" doc:"Session tickets. A resumed session is checked against the registry like a full handshake."`
}

// ProxyProtocol names the load balancers whose PROXY headers are believed.
type ProxyProtocol struct {
	From []string `yaml:"from" doc:"Addresses or CIDR ranges. Connections from them must begin with a version 2 header; from all others a header is a TLS error. It changes what remote_ip says, never who the device is."`
}

// Limits bounds what one connection and one request may take.
type Limits struct {
	Connections   int      `yaml:"connections" default:"100000" doc:"Open connections on the listener."`
	PerDevice     int      `yaml:"per_device" default:"64" doc:"Open connections of one device on the listener."`
	PerAddress    int      `yaml:"per_address" doc:"Open connections from one address (IPv6: one /64) that have not shown yet who they are. Default: an eighth of connections, at least 64, and never all of them. Devices behind a load balancer come from its address, unless proxy_protocol names it."`
	Handshake     Duration `yaml:"handshake" default:"15s" doc:"Longest TLS handshake."`
	Idle          Duration `yaml:"idle" default:"10m" doc:"Longest silence between two requests on a connection."`
	Head          Duration `yaml:"head" default:"20s" doc:"From the first to the last byte of a request head."`
	Stall         Duration `yaml:"stall" default:"60s" doc:"Longest wait for the next byte of a body, in either direction."`
	HeadBytes     Size     `yaml:"head_bytes" default:"32KiB" doc:"Largest request head: request line and header fields."`
	HeaderFields  int      `yaml:"header_fields" default:"100" doc:"Most header fields in a request."`
	DecisionBytes Size     `yaml:"decision_bytes" default:"4MiB" doc:"Largest body that is held in memory when a decision needs it (413 past it). Other bodies stream and have no limit here."`
	BundleEntries int      `yaml:"bundle_entries" default:"1000" doc:"Most entries in a FHIR batch or transaction."`
	Streams       int      `yaml:"streams" default:"100" doc:"Concurrent HTTP/2 streams of a connection."`
}

// Enrolment configures how devices come to their certificates.
type Enrolment struct {
	Address       string            `yaml:"address" default:"off" doc:"host:port where devices enrol and renew: EST, one-time tokens, smallstep's step. It takes connections without a client certificate, and leads to nothing but enrolment. 'off' listens nowhere."`
	Hosts         []string          `yaml:"hosts" doc:"DNS names and IP addresses devices use for it: the names in its certificate, and the only Host values accepted."`
	Certificate   ServerCertificate `yaml:"certificate" doc:"The gateway's own certificate there."`
	ProxyProtocol ProxyProtocol     `yaml:"proxy_protocol" doc:"PROXY protocol version 2 from load balancers in front. Without it, everybody behind one is one address to the limits below."`
	Limits        EnrolmentLimits   `yaml:"limits" doc:"What one address may take."`
	Quota         EnrolmentQuota    `yaml:"quota" doc:"How many certificates one device may be given, whichever way it asks."`
	Manufacturers []Manufacturer    `yaml:"manufacturers" doc:"Manufacturers whose factory certificates (IEEE 802.1AR IDevID) enrol devices that are in the registry. They open nothing else."`
	EST           EST               `yaml:"est" doc:"EST (RFC 7030), which is always there."`
	SCEP          SCEP              `yaml:"scep" doc:"SCEP (RFC 8894), for devices and device management that know nothing newer."`
	// Grace is how long after its end a certificate still renews itself.
	Grace      Duration            `yaml:"grace" default:"0s" doc:"How long after its end a certificate still renews itself, at this listener and for nothing else: for devices that lay on a shelf. It must be the device's latest, of an active device, and the device shows that it has the key. 0s: an operator renews."`
	ClassGrace map[string]Duration `yaml:"class_grace" doc:"The same by class; it takes the place of grace."`
	ACME       ACME                `yaml:"acme" doc:"What ACME (RFC 8555) at this listener may lead to. Every account is opened with a one-time token; without an entry here it brings nothing."`
}

// EST configures enrolment by RFC 7030.
type EST struct {
	OneLine bool `yaml:"one_line" default:"false" doc:"Answer in base64 without line breaks, for clients that stop at one, such as strongSwan's pki 5.9.8. Without it there are line breaks, as RFC 7030 has them, which clients made with OpenSSL's defaults need."`
}

// SCEP configures enrolment by RFC 8894.
type SCEP struct {
	Enabled       bool     `yaml:"enabled" default:"false" doc:"Answer to SCEP at /scep and /cgi-bin/pkiclient.exe of the enrolment listener. The challenge password is the device's one-time token."`
	Address       string   `yaml:"address" default:"off" doc:"host:port where SCEP, and nothing else, is answered in plain HTTP too, as most of its clients want it: messages are signed and encrypted themselves. PROXY protocol is not read there. 'off' listens nowhere."`
	LegacyClasses []string `yaml:"legacy_classes" doc:"Classes of devices whose messages may be protected by SHA-1, DES or triple DES. Others are refused (badAlg)."`
}

// A Manufacturer is one whose factory certificates enrol its devices.
type Manufacturer struct {
	Name         string   `yaml:"name" required:"true" doc:"Name of the manufacturer, as policies see it in input.enrolment.manufacturer."`
	Anchors      string   `yaml:"anchors" required:"true" doc:"PEM file with the CA certificates that the manufacturer's device certificates chain to, such as manufacturers/example-devices.pem. They vouch for this manufacturer's devices and no others."`
	RegisteredAs []string `yaml:"registered_as" doc:"What the registry's records call the manufacturer, in capitals or not. Default: name."`
	Models       []string `yaml:"models" doc:"Models, as records have them, that enrol with these anchors. Default: every model of the manufacturer."`
	CRL          string   `yaml:"crl" doc:"File with the revocation lists of the manufacturer's CAs, in PEM, or one in DER. A device whose certificate is listed does not enrol with it. It is read again when it has changed. The certificate of each CA that signs a list is among the anchors."`
	StaleCRL     string   `yaml:"stale_crl" default:"refuse" enum:"refuse,pass" doc:"What becomes of a device whose CA has no list in crl that is in its validity: refused, or let pass unless an old list has it."`
	ModelIn      string   `yaml:"model_in" default:"none" enum:"none,ou,cn" doc:"Where the subject of a device's certificate names the model, which then has to be that of the record. Say it if serial numbers are unique only within a model."`
}

// MaxGrace is the longest that a certificate may renew itself after its end.
const MaxGrace = 3 * 365 * 24 * time.Hour

// EnrolmentListener is what records and metrics call the enrolment listener.
const EnrolmentListener = "enrolment"

// EnrolmentLimits bounds what one address may take of the enrolment listener.
type EnrolmentLimits struct {
	Connections int      `yaml:"connections" default:"512" doc:"Open connections, all addresses together."`
	PerAddress  int      `yaml:"per_address" default:"16" doc:"Open connections of one address. An IPv6 /64 network counts as one address, here and below."`
	Requests    int      `yaml:"requests" default:"60" doc:"Requests of one address in a minute (429 past it)."`
	Failures    int      `yaml:"failures" default:"5" doc:"Wrong secrets from one address after which it is locked out (429): for lockout, and twice as long with each further one, to a day."`
	Lockout     Duration `yaml:"lockout" default:"1m" doc:"The first lockout. A day without a wrong secret forgets them."`
	Handshake   Duration `yaml:"handshake" default:"15s" doc:"Longest TLS handshake."`
	Request     Duration `yaml:"request" default:"20s" doc:"Longest time to send one request."`
	Idle        Duration `yaml:"idle" default:"30s" doc:"Longest silence between two requests on a connection."`
}

// EnrolmentQuota bounds how many certificates one device may be given.
type EnrolmentQuota struct {
	Certificates int      `yaml:"certificates" default:"20" doc:"Certificates of one device by one way (such as cli or est) within the window."`
	Window       Duration `yaml:"window" default:"24h" doc:"The time they are counted over."`
}

// Findings configures what the gateway finds out about devices by itself.
type Findings struct {
	SamePlace  []string `yaml:"same_place" doc:"CIDR ranges within which all addresses are one place, such as the outer addresses of a NAT. A certificate that is used from two places at once is found to be copied."`
	ClockError Duration `yaml:"clock_error" default:"2m" doc:"How wrong a device's clock may be, by the Date of its requests, before that is a finding."`
}

// Revocation configures how others learn of revocations.
type Revocation struct {
	Address    string           `yaml:"address" default:"off" doc:"host:port where the revocation list and the OCSP responder are served, in plain HTTP (RFC 5280 §8: over TLS, who checks a certificate would have to check one first; both are signed). Nothing else is. 'off' listens nowhere."`
	NextUpdate Duration         `yaml:"next_update" default:"24h" doc:"How long a revocation list is valid. A new one is made after half of it, and at once after a revocation."`
	OCSP       Duration         `yaml:"ocsp_next_update" default:"1h" doc:"How long an OCSP answer is valid: for so long somebody who kept one may go on believing it."`
	Limits     RevocationLimits `yaml:"limits" doc:"What one address may take."`
}

// RevocationListener is what records and status call the revocation listener.
const RevocationListener = "revocation"

// RevocationLimits bounds what one address may take of the revocation listener.
type RevocationLimits struct {
	Connections int      `yaml:"connections" default:"512" doc:"Open connections, all addresses together."`
	PerAddress  int      `yaml:"per_address" default:"16" doc:"Open connections of one address. An IPv6 /64 network counts as one address, here and below."`
	Requests    int      `yaml:"requests" default:"600" doc:"Requests of one address in a minute (429 past it)."`
	Request     Duration `yaml:"request" default:"10s" doc:"Longest time to send one request."`
	Idle        Duration `yaml:"idle" default:"30s" doc:"Longest silence between two requests on a connection."`
}

// A Route is what a listener's traffic is matched to.
type Route struct {
	Name        string `yaml:"name" required:"true" doc:"Name of the route, as policies see it in input.route.name."`
	Listener    string `yaml:"listener" doc:"Only traffic of this listener. Default: every listener."`
	Host        string `yaml:"host" doc:"Only requests for this host. Default: every host of the listener."`
	Path        string `yaml:"path" default:"/" doc:"Path prefix, whole segments. The longest matching prefix wins."`
	StripPrefix bool   `yaml:"strip_prefix" default:"false" doc:"Remove the prefix before forwarding."`
	Kind        string `yaml:"kind" default:"http" enum:"http,fhir" doc:"fhir: the prefix is the base of a FHIR R4 server, and requests are understood as FHIR interactions."`
	Backend     string `yaml:"backend" required:"true" doc:"Name of the backend."`
	Environment string `yaml:"environment" default:"production" doc:"Free text for policies, in input.route.environment."`
	Class       string `yaml:"class" default:"clinical" enum:"life-safety,clinical,administrative" doc:"How much harm a wrong deny does."`
	OnFailure   string `yaml:"on_failure" default:"refuse" enum:"refuse,pass" doc:"What becomes of requests when the audit log has nearly no disk left. refuse: they are refused. pass, for class life-safety and kind fhir only: reports that the policies allow (a create of a Communication, DetectedIssue, Flag or Observation, or a small Bundle of them) of active devices that are registered as life-critical go on, recorded in what is kept free for that; shown as a warning everywhere. Rules that fail refuse either way. See docs/on-failure.md."`
	Mode        string `yaml:"mode" default:"enforce" enum:"enforce,observe" doc:"enforce: what the policy denies is refused. observe: it is forwarded and recorded as would-deny, for a first roll-out; shown as a warning everywhere. A request that can be read in two ways, a device that is not active and a full audit log are refused in either mode."`
	Lane        bool   `yaml:"quarantine_lane" default:"false" doc:"A lane to the update server: quarantined devices may connect to the route's listeners, and the policies decide what they may do on this route. Every other route is refused to them, whatever the policies say. Revoked, retired and expired devices are refused at the handshake as ever. Shown as a warning everywhere."`
	WebSocket   bool   `yaml:"websocket" default:"false" doc:"Allow upgrades to WebSocket, each decided as one transaction."`
}

// A Backend is a system behind the gateway.
type Backend struct {
	Name           string        `yaml:"name" required:"true" doc:"Name of the backend."`
	Addresses      []string      `yaml:"addresses" required:"true" doc:"host:port of each address, in order of preference among healthy ones."`
	ServerName     string        `yaml:"server_name" doc:"Name the backend's certificate must carry. Default: the host of the address."`
	Host           string        `yaml:"host" doc:"Host header sent to the backend. Default: the one the device sent."`
	BasePath       string        `yaml:"base_path" doc:"Path put before every forwarded path."`
	Insecure       bool          `yaml:"insecure" default:"false" doc:"Speak plain HTTP to the backend. Nothing between gateway and backend is then protected."`
	CAFile         string        `yaml:"ca_file" doc:"PEM roots the backend's certificate is checked against. Default: the embedded CA's root only; the system's roots are never used unless system_roots says so."`
	SystemRoots    bool          `yaml:"system_roots" default:"false" doc:"Check the backend's certificate against the system's roots."`
	Pins           []string      `yaml:"pins" doc:"sha256/<base64> of the backend's subject public key info; one must match, beside the chain."`
	Certificate    string        `yaml:"certificate" doc:"PEM client certificate the gateway shows the backend."`
	Key            string        `yaml:"key" doc:"PEM key of that certificate."`
	HTTP2          bool          `yaml:"http2" default:"false" doc:"Offer HTTP/2 to the backend."`
	Connect        Duration      `yaml:"connect" default:"5s" doc:"Longest TCP connect and TLS handshake."`
	Timeout        Duration      `yaml:"timeout" default:"60s" doc:"Longest wait for the response head after the request was sent."`
	MaxConnections int           `yaml:"max_connections" default:"512" doc:"Connections per address, whether busy or idle; upgraded ones (WebSocket) are not among them. At the limit a request waits for its turn, as long as timeout says (503 past it)."`
	MaxPerDevice   int           `yaml:"max_per_device" doc:"Requests of one device at this backend at a time, which is what it can have of the connections; more wait for its own to end, as long as timeout says (503 past it). Default: an eighth of max_connections, at least 4, and never all of them."`
	MaxIdle        int           `yaml:"max_idle" default:"64" doc:"Idle connections kept per address."`
	IdleTimeout    Duration      `yaml:"idle_timeout" default:"90s" doc:"How long an idle connection is kept."`
	Retries        int           `yaml:"retries" default:"1" doc:"Further tries of an idempotent request whose connection broke. Addresses that can not be connected to are each tried in any case."`
	Health         BackendHealth `yaml:"health" doc:"Active and passive health checks."`
}

// BackendHealth configures active and passive health checks.
type BackendHealth struct {
	Path     string   `yaml:"path" doc:"GET this path; 2xx and 3xx are healthy. Default: a TCP connect and TLS handshake."`
	Interval Duration `yaml:"interval" default:"10s" doc:"Time between checks of an address. 0 switches active checks off."`
	Timeout  Duration `yaml:"timeout" default:"3s" doc:"Longest check."`
	Failures int      `yaml:"failures" default:"3" doc:"Failures in a row, of checks or requests, after which an address is set aside."`
	Cooldown Duration `yaml:"cooldown" default:"5s" doc:"How long an address that failed in use is set aside before it is tried again, if active checks are off."`
}

// Duration is a time span written as Go writes it: 90s, 10m, 8760h.
type Duration time.Duration

// D returns the span as a time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

func (d Duration) String() string { return time.Duration(d).String() }

// Size is a number of bytes written with a unit: 64KiB, 4MiB, 1GiB, or plain.
type Size int64
