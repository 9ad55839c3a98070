values = input().split()
print(values[len(values)])
