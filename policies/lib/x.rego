package anteroom.lib.x

y := 1
