// Package config is the configuration file: its types, its defaults and its
// strict reading. Every other room is handed its part of a [File] and never sees
// the text.
//
// [Load] refuses a file that leaves anything in doubt: unknown and repeated
// keys, values of the wrong type or out of range, names that lead nowhere. It
// reports everything it finds at once, each with file, line and column, and with
// the nearest known name where one was probably misspelt.
package config
