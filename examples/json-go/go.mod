module json

go 1.27
