// Package fhir understands HTTP requests as interactions of the FHIR R4 REST
// API (http://hl7.org/fhir/R4/http.html): what is to be done, to what type of
// resource, and about which patient. It is the vocabulary of FHIR beside the
// HTTP adapter: pure functions on values, without a connection or a goroutine.
//
// The life of a request: [Parse] recognises the [Interaction] from the method,
// the canonical path and query and a few header fields, or refuses. [Interaction.Body]
// says whether the body has to be read to know what is asked:
//
//   - BodyNone: there is nothing in it (read, search by GET, delete).
//   - BodyOptional: the interaction is known; who it is about stands in the
//     body (create, update, patch, operation). [Interaction.BodyFacts] lists what
//     only the body tells, so that a caller can ask whether anybody wants to know.
//   - BodyRequired: the body is the question (a search's form, a Bundle).
//
// [Interaction.ReadBody] reads it whole and strictly; [Interaction.AppendBody]
// writes it again, in the one form that was understood, for the backend. The
// entries of a batch or transaction are interactions of their own
// ([Interaction.Entries]), recognised by the very rules that requests are.
// [Interaction.Transaction] tells a [protocol.Transaction] the facts.
//
// A batch of which some entries are denied goes on without them:
// [Interaction.Split] makes the Bundle to send and [Interaction.Join] puts the
// denials into the answer. Refusals and denials are told as an OperationOutcome
// ([Outcome]).
//
// Whatever is not understood, or could be understood in two ways, is a
// [*Refusal]; nothing is repaired (invariant 7). Texts of refusals hold no byte
// the device sent. Everything has a limit ([Limits]).
//
// An Interaction is for one goroutine at a time. It keeps the body it read and
// must not outlive the request.
package fhir
