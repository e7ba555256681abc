# What stands between nginx's auth_request and the shipped policies: it builds
# the question that Anteroom builds from what nginx can tell, as far as the
# rules read it, and is undefined unless they allow. nginx takes the 404 that OPA
# answers then for a refusal.
package bench

allowed if data.anteroom.authz.decision.allow with input as question

question := {
	"device": data.bench.registry[input.subject],
	"session": {"listener": "devices", "remote_ip": input.remote_ip, "tls": {"version": "1.3"}},
	"request": object.union(
		{
			"protocol": protocol,
			"bytes": to_number(input.bytes),
			"http": {
				"method": input.method,
				"host": input.host,
				"path": path,
				"query": {},
				"headers": {},
				"content_type": input.content_type,
			},
		},
		vocabulary,
	),
	"behaviour": {"level": "none", "signals": []},
	"break_glass": {"active": false},
	"route": {"name": path[0], "backend": path[0], "environment": "production", "class": "clinical", "quarantine_lane": false},
}

# Only what has no query is understood here.
path := split(trim_prefix(input.uri, "/"), "/") if not contains(input.uri, "?")

protocol := "fhir" if path[0] == "fhir"

else := "http"

vocabulary := {
	"action": interaction,
	"resource": path[1],
	"fhir": {
		"interaction": interaction,
		"type": path[1],
		"id": concat("", array.slice(path, 2, 3)),
		"operation": "",
		"conditional": false,
		"level": "type",
	},
} if {
	protocol == "fhir"
}

else := {"action": input.method, "resource": concat("/", path)}

interaction := "create" if {
	input.method == "POST"
	count(path) == 2
}

interaction := "read" if {
	input.method == "GET"
	count(path) == 3
}

interaction := "update" if {
	input.method == "PUT"
	count(path) == 3
}
