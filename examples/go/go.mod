module example.com/customer

go 1.21
