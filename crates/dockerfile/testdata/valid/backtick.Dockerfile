# escape=`

from example/windows
workdir C:\app\
copy [ "a b.txt", "C:\\app\\" ]
run dir `
    C:\ `
    /b
