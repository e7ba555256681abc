# METADATA
# title: The asking device
# description: Facts about the device that rules of several topics need.
package anteroom.lib.device

# METADATA
# title: The device may take part
# description: |
#   A positive fact, so that a rule that asks for it does not hold for a device
#   whose status is unknown.
# custom:
#   controls:
#     - HIPAA 164.312(d) Person or entity authentication
#     - NIST 800-53 IA-3 Device identification and authentication
active if input.device.status == "active"

# METADATA
# title: No patient's life depends on the device
# description: Posture rules cut off only these.
expendable if input.device.life_critical == false
