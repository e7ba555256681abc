package settings

import (
	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// A File is the whole configuration, as written in anteroom-agent.yaml.
type File struct {
	Version   int       `yaml:"version" default:"1" doc:"Format of this file. Always 1."`
	StateDir  string    `yaml:"state_dir" default:"/var/lib/anteroom-agent" doc:"Where the device's key and certificate rest, and what is stored for the gateway. Relative paths are relative to this file. One agent owns it at a time."`
	Key       string    `yaml:"key" default:"file" doc:"Where keys are made: file, in state_dir, or in a TPM 2.0 that they never leave, such as tpm:/dev/tpmrm0. What is there already goes on until the next certificate."`
	Enrolment Enrolment `yaml:"enrolment" doc:"Where the device gets its certificate, and the next one."`
	Forward   []Forward `yaml:"forward" doc:"Ports the device connects to, each carried to a listener of the gateway."`
	Reverse   []Reverse `yaml:"reverse" doc:"Ports the gateway connects to, each carried to a server port of the device."`

	// Path is the file this configuration was read from.
	Path string `yaml:"-"`
}

// Enrolment says where certificates come from.
type Enrolment struct {
	URL    string `yaml:"url" required:"true" doc:"The gateway's enrolment listener, such as https://gateway.hospital.example:8444."`
	Root   string `yaml:"root" doc:"SHA-256 of the root certificate the gateway is known by, in hexadecimal, as anteroom device token shows it. Needed once, to enrol; afterwards the root is kept."`
	CAFile string `yaml:"ca_file" doc:"PEM roots the enrolment listener's certificate is checked against, if it is from another CA than the gateway's own."`
}

// A Forward carries what the device sends to the gateway.
type Forward struct {
	Name        string          `yaml:"name" required:"true" doc:"Name of the entry, in logs and status."`
	Listen      string          `yaml:"listen" required:"true" doc:"host:port the device connects to, in plain text. Best an address of the link to the device alone."`
	Device      string          `yaml:"device" required:"true" doc:"IP address of the device. Connections from any other are closed and logged."`
	Protocol    string          `yaml:"protocol" required:"true" enum:"http,mllp,dicom,mqtt,tcp" doc:"What the device speaks. http: the Host of each request becomes the gateway's. dicom, http: a device hears in its own language that the gateway is away. mllp, mqtt, tcp: bytes, unless there is a store."`
	Gateway     string          `yaml:"gateway" required:"true" doc:"host:port of the gateway's listener."`
	ServerName  string          `yaml:"server_name" doc:"Name the gateway's certificate must carry, and of http requests. Default: the host of gateway."`
	CAFile      string          `yaml:"ca_file" doc:"PEM roots the listener's certificate is checked against, if it is from another CA than the gateway's own."`
	Connections int             `yaml:"connections" default:"32" doc:"Open connections of the device. Past it new ones are closed."`
	Connect     config.Duration `yaml:"connect" default:"10s" doc:"Longest wait for a connection to the gateway, its turn in the back-off included, before the device hears that there is none."`
	Store       Store           `yaml:"store" doc:"mllp, mqtt: keep messages on disk while the gateway is away, and deliver them in order."`
}

// Store configures what is kept for the gateway while it is away.
type Store struct {
	Bytes    config.Size     `yaml:"bytes" default:"0" doc:"Most bytes of messages on disk. Past it the device is refused. 0 keeps nothing."`
	Age      config.Duration `yaml:"age" default:"72h" doc:"When the oldest message waits longer than this, the device is refused until it is delivered. Nothing that was taken is dropped."`
	Original string          `yaml:"original" default:"wait" enum:"wait,accept" doc:"mllp: What a device in original mode hears, which has no word for stored. wait: the receiver's own answer, or an error that it may try again after; such messages are not kept. accept: AA as soon as the message is on disk; the site answers for its delivery."`
	Wait     config.Duration `yaml:"wait" default:"20s" doc:"Longest wait for an answer to a message before the device hears an error, or the message is sent again."`
	Message  config.Size     `yaml:"message" default:"1MiB" doc:"Largest message."`
	Tries    int             `yaml:"tries" default:"5" doc:"How often a stored message is sent to a receiver that answers with an error (AE, CE; an error of MQTT 5) before it is set aside. One that is rejected for good (AR, CR; not authorized) is set aside at once."`
}

// On reports whether anything is to be stored.
func (s *Store) On() bool { return s.Bytes > 0 }

// A Reverse carries what the gateway sends to the device.
type Reverse struct {
	Name        string          `yaml:"name" required:"true" doc:"Name of the entry, in logs and status."`
	Listen      string          `yaml:"listen" required:"true" doc:"host:port the gateway connects to, with mutual TLS."`
	Device      string          `yaml:"device" required:"true" doc:"host:port of the device's own server."`
	Pins        []string        `yaml:"pins" required:"true" doc:"sha256/<base64> of the public keys that the gateway may show. Nobody else gets in, whoever signed their certificate."`
	Connections int             `yaml:"connections" default:"32" doc:"Open connections. Past it new ones are closed."`
	Connect     config.Duration `yaml:"connect" default:"5s" doc:"Longest connect to the device."`
}
