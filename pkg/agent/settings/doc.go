// Package settings is the agent's configuration file: what is in it, and what is
// wrong with it, with file and line. It is read as strictly as the gateway's, by
// the same decoder.
package settings
