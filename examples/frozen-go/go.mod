module example/frozen

go 1.24
